import PlatterCore
import PlatterQCOW2
import SystemPackage
import TestSupport
import Testing

/// Opens bytes as a qcow2 image.
func open(_ bytes: [UInt8], _ context: OpenContext = OpenContext()) throws(ImageError) -> any ImageMap {
  try QCOW2.open(MemoryStore(bytes, name: "test.qcow2", isWritable: context.isWritable), context)
}

func open(_ image: QCOW2Builder, _ context: OpenContext = OpenContext()) throws(ImageError) -> any ImageMap {
  try open(image.build().bytes, context)
}

/// The error of mapping the whole disk, or nil where there is none.
func mapError(_ image: QCOW2Builder) throws -> ImageError? {
  let map = try open(image)
  do {
    _ = try runs(map)
    return nil
  } catch let error as ImageError {
    return error
  }
}

let cluster = 65536
func filled(_ byte: UInt8, _ count: Int = cluster) -> [UInt8] { [UInt8](repeating: byte, count: count) }

/// A word that must not be there, where it stands, and what the error must say.
struct BadWord: Sendable, CustomTestStringConvertible {
  var offset: Int
  var word: UInt64
  var says: String
  init(at offset: Int = 0, _ word: UInt64, _ says: String) {
    self.offset = offset
    self.word = word
    self.says = says
  }
  var testDescription: String { "\(word.hex) at \(offset)" }
}
