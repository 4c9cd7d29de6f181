import Platter
import PlatterCore
import SystemPackage
import TestSupport
import Testing

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// What reading a whole disk came to.
private enum Outcome: Equatable {
  case content(byteCount: UInt64, digest: String)
  case refused(ImageError.Code)
}

@Suite("The library reads what it must of the corpus and refuses what it must")
struct ReadingTests {
  @Test("content and refusals, and no file is changed", arguments: Corpus.rows)
  func row(_ row: Row) throws {
    let scratch = try ScratchDirectory()
    let image = try Corpus.unpack(row, into: scratch)
    let before = try row.names.map { try Fingerprint(scratch.file($0)) }

    switch read(row, image) {
    case .content(let byteCount, let digest):
      #expect(!row.mustBeRefused, "it must be refused")
      #expect(row.mustBeRefused || row.sizes.contains(byteCount))
      #expect(row.mustBeRefused || row.expected.contains(digest))
    case .refused:
      #expect(row.mayBeRefused)
    }
    #expect(try row.names.map { try Fingerprint(scratch.file($0)) } == before)
  }

  @Test("the format is found from the content", arguments: Corpus.rows.filter { !$0.mayBeRefused })
  func probing(_ row: Row) throws {
    let scratch = try ScratchDirectory()
    let image = try Corpus.unpack(row, into: scratch)
    var options = OpenOptions(references: .any)
    options.passphrase = passphrase(of: row)
    #expect(try DiskImage.open(image.string, options).formatName == row.format)
  }

  @Test("without the caller's leave no other file is opened", arguments: Corpus.rows.filter { $0.names.count > 1 })
  func nothingIsFollowed(_ row: Row) throws {
    let scratch = try ScratchDirectory()
    let image = try Corpus.unpack(row, into: scratch)
    let options = OpenOptions(format: row.format, references: .none)
    #expect(throws: ImageError.self) { try digest(of: try DiskImage.open(image.string, options)) }
  }

  private func read(_ row: Row, _ image: FilePath) -> Outcome {
    var options = OpenOptions(format: row.format, references: .any)
    options.snapshot = row.snapshot
    options.passphrase = passphrase(of: row)
    do {
      let disk = try DiskImage.open(image.string, options)
      return .content(byteCount: disk.byteCount, digest: try digest(of: disk))
    } catch {
      return .refused(error.code)
    }
  }

  private func passphrase(of row: Row) -> (@Sendable () throws(ImageError) -> [UInt8]?)? {
    guard let text = row.passphrase else { return nil }
    return { () throws(ImageError) in Array(text.utf8) }
  }

  /// Reads the whole disk; what the map calls zero is not read.
  @discardableResult
  private func digest(of disk: DiskImage) throws(ImageError) -> String {
    let unit = UInt64(DiskDigest.unit)
    var digest = DiskDigest(diskByteCount: disk.byteCount)
    var buffer = [UInt8](repeating: 0, count: 16 * DiskDigest.unit)
    var offset: UInt64 = 0
    while offset < disk.byteCount {
      var status: [BlockStatus] = []
      _ = try disk.status(offset..<disk.byteCount, limit: 1, into: &status)
      if let first = status.first, first.isZero, first.byteCount >= unit {
        digest.addZeroUnits(first.byteCount / unit)
        offset += first.byteCount / unit * unit
        continue
      }
      let count = Int(min(UInt64(buffer.count), disk.byteCount - offset))
      try buffer.withMutableRawBytes { bytes throws(ImageError) in
        try bytes.withPart(0..<count) { part throws(ImageError) in try disk.read(into: &part, at: offset) }
      }
      digest.add(buffer.rawBytes.extracting(first: count))
      offset += UInt64(count)
    }
    return digest.finish()
  }
}

/// Everything about a file that reading must not change.
private struct Fingerprint: Equatable {
  var byteCount: Int64
  var modifiedSeconds: Int
  var modifiedNanoseconds: Int
  var digest: String

  init(_ path: FilePath) throws {
    var status = stat()
    guard unsafe path.withPlatformString({ unsafe lstat($0, &status) }) == 0 else { throw Errno(rawValue: errno) }
    byteCount = Int64(status.st_size)
    #if canImport(Glibc)
      modifiedSeconds = status.st_mtim.tv_sec
      modifiedNanoseconds = status.st_mtim.tv_nsec
    #else
      modifiedSeconds = status.st_mtimespec.tv_sec
      modifiedNanoseconds = status.st_mtimespec.tv_nsec
    #endif
    // The sparse digest throughout: some of the files are large and nearly empty.
    let store = try FileStore(path)
    var sum = DiskDigest(diskByteCount: .max)
    let end = try store.byteCount()
    var offset: UInt64 = 0
    while offset < end {
      let segment = try store.segment(at: offset, limit: end - offset)
      let units = segment.byteCount / UInt64(DiskDigest.unit)
      if segment.isHole, units > 0 {
        sum.addZeroUnits(units)
        offset += units * UInt64(DiskDigest.unit)
      } else {
        let bytes = try store.readPrefix(at: offset, count: DiskDigest.unit)
        sum.add(bytes.rawBytes)
        offset += UInt64(DiskDigest.unit)
      }
    }
    digest = sum.finish()
  }
}
