package import PlatterCore

/// What a map did that none may do.
package struct ContractError: Error, CustomStringConvertible {
  package var description: String
  package init(_ description: String) { self.description = description }
}

/// All runs of a range, fetched `limit` at a time and joined. Checks the contract on the way: no gap, no overlap,
/// progress.
///
/// - Throws: `ContractError`, and what the map throws.
package func runs(_ map: any ImageMap, _ range: Range<UInt64>? = nil, limit: Int = 1000) throws -> [Extent] {
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
