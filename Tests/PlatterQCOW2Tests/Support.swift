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

/// All runs of a range, fetched `limit` at a time. Checks the contract on the way: no gap, no overlap, progress.
func runs(_ map: any ImageMap, _ range: Range<UInt64>? = nil, limit: Int = 1000) throws -> [Extent] {
  let range = range ?? 0..<map.byteCount
  var all: [Extent] = []
  var position = range.lowerBound
  while position < range.upperBound {
    var batch: [Extent] = []
    let next = try map.map(position..<range.upperBound, limit: limit, into: &batch)
    guard next > position, next <= range.upperBound else { throw ContractError("no progress at \(position)") }
    guard batch.count <= limit, !batch.isEmpty else { throw ContractError("\(batch.count) runs for \(limit)") }
    var expected = position
    for extent in batch {
      guard extent.start == expected, extent.byteCount > 0 else { throw ContractError("gap at \(expected)") }
      expected = extent.end
      all.appendJoining(extent)
    }
    guard expected == next else { throw ContractError("runs end at \(expected), not at \(next)") }
    position = next
  }
  return all
}

struct ContractError: Error, CustomStringConvertible {
  var description: String
  init(_ description: String) { self.description = description }
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
