import PlatterCore
import TestSupport
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
    body.put(entry, at: start)
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
    head.put(UInt32(0x0044_4551), at: 0)
    head.put(UInt32(cluster), at: 4)
    head.put(UInt32(tableClusters), at: 8)
    head.put(UInt32(headerClusters), at: 12)
    head.put(features, at: 16)
    head.put(compatible, at: 24)
    head.put(autoclear, at: 32)
    head.put(firstTable ?? headerClusters * cluster, at: 40)
    head.put(size, at: 48)
    head.put(nameOffset, at: 56)
    head.put(nameLength ?? UInt32(name.count), at: 60)
    head.put(name, at: 64)
    return head + body
  }

  func store() -> MemoryStore { MemoryStore(bytes, name: "disk.qed") }
}
