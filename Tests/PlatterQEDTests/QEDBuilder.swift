import PlatterCore
import Testing

/// Writes QED files from the specification, field by field.
struct QEDBuilder {
  var cluster: UInt64 = 4096
  var tableClusters: UInt64 = 1
  var headerClusters: UInt64 = 1
  var features: UInt64 = 0
  var compatible: UInt64 = 0
  var autoclear: UInt64 = 0
  var size: UInt64 = 1 << 20
  var firstTable: UInt64?
  var name: [UInt8] = []
  var nameOffset: UInt32 = 64
  var nameLength: UInt32?
  /// File bytes from the L1 table on.
  private var body: [UInt8] = []
  private var tables: [UInt64: UInt64] = [:]

  init(cluster: UInt64 = 4096, tableClusters: UInt64 = 1, size: UInt64 = 1 << 20) {
    self.cluster = cluster
    self.tableClusters = tableClusters
    self.size = size
    body = [UInt8](repeating: 0, count: Int(tableClusters * cluster))
  }

  var entries: UInt64 { cluster * tableClusters / 8 }
  var end: UInt64 { headerClusters * cluster + UInt64(body.count) }

  /// Adds whole clusters at the end of the file; returns their place.
  mutating func append(_ bytes: [UInt8], clusters: UInt64) -> UInt64 {
    let place = end
    body += bytes + [UInt8](repeating: 0, count: Int(clusters * cluster) - bytes.count)
    return place
  }

  mutating func store(_ entry: UInt64, at offset: UInt64) {
    let start = Int(offset - headerClusters * cluster)
    for byte in 0..<8 { body[start + byte] = UInt8(truncatingIfNeeded: entry >> (8 * UInt64(byte))) }
  }

  mutating func setFirst(_ index: UInt64, _ entry: UInt64) {
    store(entry, at: headerClusters * cluster + index * 8)
    tables[index] = entry
  }

  /// Sets the L2 entry of a guest cluster, making its table where there is none.
  mutating func set(_ guestCluster: UInt64, _ entry: UInt64) {
    let first = guestCluster / entries
    if tables[first] == nil { setFirst(first, append([], clusters: tableClusters)) }
    store(entry, at: (tables[first] ?? 0) + guestCluster % entries * 8)
  }

  /// Gives a guest cluster data; returns its place.
  @discardableResult mutating func fill(_ guestCluster: UInt64, with byte: UInt8) -> UInt64 {
    if tables[guestCluster / entries] == nil { set(guestCluster, 0) }
    let place = append([UInt8](repeating: byte, count: Int(cluster)), clusters: 1)
    set(guestCluster, place)
    return place
  }

  var bytes: [UInt8] {
    var head = [UInt8](repeating: 0, count: Int(headerClusters * cluster))
    func put(_ value: UInt64, _ offset: Int, _ count: Int) {
      for byte in 0..<count { head[offset + byte] = UInt8(truncatingIfNeeded: value >> (8 * UInt64(byte))) }
    }
    put(0x0044_4551, 0, 4)
    put(cluster, 4, 4)
    put(tableClusters, 8, 4)
    put(headerClusters, 12, 4)
    put(features, 16, 8)
    put(compatible, 24, 8)
    put(autoclear, 32, 8)
    put(firstTable ?? headerClusters * cluster, 40, 8)
    put(size, 48, 8)
    put(UInt64(nameOffset), 56, 4)
    put(UInt64(nameLength ?? UInt32(name.count)), 60, 4)
    for (index, byte) in name.enumerated() { head[64 + index] = byte }
    return head + body
  }

  func store() -> MemoryStore { MemoryStore(bytes, name: "disk.qed") }
}

/// Every run of an image, asked for `limit` at a time and joined.
func allRuns(_ map: any ImageMap, limit: Int = .max) throws -> [Extent] {
  var runs: [Extent] = []
  var position: UInt64 = 0
  while position < map.byteCount {
    var part: [Extent] = []
    let end = try map.map(position..<map.byteCount, limit: limit, into: &part)
    #expect(part.count <= limit)
    #expect(part.first?.start == position)
    #expect(part.last?.end == end)
    for run in part { runs.appendJoining(run) }
    guard end > position else { throw ImageError(.corrupt, "the map stands still at \(position)") }
    position = end
  }
  return runs
}
