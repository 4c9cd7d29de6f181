import Platter
import PlatterCore
import SystemPackage
import TestSupport
import Testing

@Suite("Checksums that disk images carry")
struct DMGChecksumTests {
  static let rows = Corpus.rows.filter { $0.format == "dmg" && !$0.mayBeRefused && $0.passphrase == nil }

  /// Apple's tools left a CRC-32 of every partition, of the data fork and of all tables in these files.
  @Test("all of them are right", arguments: rows)
  func sound(_ row: Row) throws {
    let scratch = try ScratchDirectory()
    let disk = try DiskImage.open(try Corpus.unpack(row, into: scratch).string, OpenOptions(format: "dmg"))
    let map = try #require(disk.layers[0].map as? any CheckableMap)
    let report = try map.check(workers: 2) { _ in true }
    #expect(report.corruptions == 0 && report.checkErrors == 0)
    #expect(report.messages.isEmpty)
  }

  @Test("a damaged chunk is found, and its partition is named")
  func damaged() throws {
    let row = try #require(Corpus.rows.first { $0.file.hasPrefix("dmg-bad-zlib") })
    let scratch = try ScratchDirectory()
    let disk = try DiskImage.open(try Corpus.unpack(row, into: scratch).string, OpenOptions(format: "dmg"))
    let map = try #require(disk.layers[0].map as? any CheckableMap)
    let report = try map.check(workers: 2) { _ in true }
    #expect(report.corruptions > 0)
    #expect(report.messages.contains { $0.hasPrefix("partition \"") })
  }
}
