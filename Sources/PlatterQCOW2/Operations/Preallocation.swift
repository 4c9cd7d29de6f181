import PlatterCore
import Synchronization

/// Whether clusters that the tables call data are holes of the file: the look of an image whose tables were filled in
/// advance ("metadata preallocation"). Then it is worth asking the file where its holes are.
///
/// The rule is QEMU's, so that `map` shows the same: noticeably more clusters in use, by their refcounts, than the file
/// occupies on its disk. Found out once, at the first map.
final class Preallocation: Sendable {
  private static let sliceByteCount: UInt64 = 64 << 10

  private let store: any ByteStore
  private let header: Header
  private let fileByteCount: UInt64
  private let answer = Mutex<Bool?>(nil)

  init(_ store: any ByteStore, _ header: Header, fileByteCount: UInt64) {
    self.store = store
    self.header = header
    self.fileByteCount = fileByteCount
  }

  /// Cost: the first time one look at the file's length; reads refcounts only where the file has holes.
  var isLikely: Bool {
    if let known = answer.withLock({ $0 }) { return known }
    // A damaged refcount table is no reason to fail: nothing is lost by not asking for holes.
    var found = false
    do throws(ImageError) { found = try look() } catch {}
    answer.withLock { $0 = found }
    return found
  }

  private func look() throws(ImageError) -> Bool {
    let cluster = header.clusterByteCount
    let occupied = try store.allocatedByteCount() / cluster
    let threshold = max(occupied &+ occupied / 9, occupied &+ 2)
    let clusters = fileByteCount.dividedRoundingUp(by: cluster)
    guard clusters >= threshold else { return false }
    let geometry = RefcountGeometry(header)
    var used: UInt64 = 0
    let blocks = min(
      clusters.dividedRoundingUp(by: geometry.countsPerBlock),
      UInt64(header.refcountTableClusterCount) * cluster / 8)
    for index in 0..<blocks {
      let word = try store.readFully("refcount table", at: header.refcountTableOffset &+ index * 8, count: 8)
      let block = (word.rawBytes.bigEndian(at: 0) ?? 0) & RefcountGeometry.offsetMask
      guard block != 0 else { continue }
      let first = index * geometry.countsPerBlock
      used += try usedClusters(block, geometry, count: min(geometry.countsPerBlock, clusters - first))
      if used >= threshold { return true }
    }
    return false
  }

  /// Counts above 0 among the first `count` of a block.
  private func usedClusters(_ block: UInt64, _ geometry: RefcountGeometry, count: UInt64) throws(ImageError) -> UInt64 {
    let perSlice = (Self.sliceByteCount * 8) >> geometry.order
    var used: UInt64 = 0
    var first: UInt64 = 0
    while first < count {
      let part = min(perSlice, count - first)
      guard let offset = block.adding((first << geometry.order) / 8) else { return used }
      let bytes = try store.readFully(
        "refcount block", at: offset, count: Int(((part << geometry.order) + 7) / 8))
      for index in 0..<Int(part) where geometry.count(index, in: bytes.rawBytes) != 0 { used += 1 }
      first += part
    }
    return used
  }
}
