import Platter
import PlatterCore

/// The input is an image file. Every format is asked to open it, and what opens is described, mapped and read.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzImage(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
  let bytes = unsafe [UInt8](UnsafeBufferPointer(start: data, count: size))
  for format in Formats.all where format.name != "raw" {
    do throws(ImageError) { try exercise(bytes, format.name) } catch {}
  }
  return 0
}

private func exercise(_ bytes: [UInt8], _ format: String) throws(ImageError) {
  var options = OpenOptions(format: format, references: .none)
  options.passphrase = { () throws(ImageError) in Array("platter".utf8) }
  let disk = try DiskImage.open(MemoryStore(bytes, isWritable: false), options)
  var offset: UInt64 = 0
  // A bounded look: a small file may describe a disk of any size.
  for _ in 0..<64 where offset < disk.byteCount {
    var entries: [BlockStatus] = []
    let reached = try disk.status(offset..<disk.byteCount, limit: 16, into: &entries)
    precondition(reached > offset && reached <= disk.byteCount, "a map must go forward, and stay in the disk")
    for entry in entries.prefix(4) where entry.isData {
      _ = try disk.read(Int(min(entry.byteCount, 1 << 16)), at: entry.start)
    }
    offset = reached
  }
}
