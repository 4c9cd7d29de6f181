import PlatterCore
import Synchronization

/// How often each cluster of one window of the file is referred to, and by what. Filled by many threads at once.
///
/// Memory: 4 bytes for each cluster of the window, in chunks that are made when something in them is in use: 32 MiB at
/// the most.
final class ClusterLedger: Sendable {
  static let windowClusterCount: UInt64 = 1 << 23
  static let chunkClusterCount: UInt64 = 1 << 16

  /// What a cluster is used for.
  struct Use: OptionSet, Sendable {
    let rawValue: UInt32
    /// Belongs to one structure alone: header, L1 table, refcount table and so on.
    static let metadata = Use(rawValue: 1 << 24)
    static let table = Use(rawValue: 1 << 25)
    static let data = Use(rawValue: 1 << 26)
    static let packed = Use(rawValue: 1 << 27)
    /// Reached from the present disk's L1 table; with `table` or `data`.
    static let active = Use(rawValue: 1 << 28)
    /// The present refcount table or one of its blocks; with `metadata`. These can be made anew.
    static let refcounts = Use(rawValue: 1 << 29)
    fileprivate static let all: UInt32 = 0xff00_0000
  }

  /// One reference to a cluster; `token` is the caller's own.
  struct Reference {
    var cluster: UInt64
    var use: Use
    var token: Int
  }

  /// Larger counts are not told apart.
  static let maximumCount: UInt32 = 0x00ff_ffff

  private final class Chunk: Sendable {
    /// Count in the low 24 bits, uses above; empty until something is in use.
    let words = Mutex<[UInt32]>([])
  }

  /// Clusters of the file.
  let window: Range<UInt64>
  private let chunks: [Chunk]

  init(_ window: Range<UInt64>) {
    self.window = window
    let count = UInt64(window.count).dividedRoundingUp(by: Self.chunkClusterCount)
    chunks = (0..<count).map { _ in Chunk() }
  }

  var chunkCount: Int { chunks.count }

  /// Adds `weight` to each reference's cluster, all of which lie in the window.
  /// - Returns: tokens of those whose cluster was in use in a way that excludes this one, with that use.
  func add(_ references: [Reference], weight: UInt32) -> [(token: Int, earlier: Use)] {
    var conflicts: [(token: Int, earlier: Use)] = []
    var next = 0
    while next < references.count {
      let chunk = (references[next].cluster - window.lowerBound) / Self.chunkClusterCount
      let base = window.lowerBound + chunk * Self.chunkClusterCount
      // Neighbours mostly lie in one chunk, so that the lock is taken once for many.
      next = chunks[Int(chunk)].words.withLock { words in
        if words.isEmpty { words = [UInt32](repeating: 0, count: clusters(ofChunk: Int(chunk)).count) }
        var index = next
        while index < references.count {
          let reference = references[index]
          guard reference.cluster >= base, reference.cluster - base < Self.chunkClusterCount else { break }
          let slot = Int(reference.cluster - base)
          let earlier = Use(rawValue: words[slot] & Use.all)
          if Self.excludes(earlier, reference.use) { conflicts.append((reference.token, earlier)) }
          let count = min(words[slot] & Self.maximumCount, Self.maximumCount - min(weight, Self.maximumCount))
          words[slot] = (count + min(weight, Self.maximumCount)) | earlier.rawValue | reference.use.rawValue
          index += 1
        }
        return index
      }
    }
    return conflicts
  }

  /// Whether two uses of one cluster cannot both be right.
  private static func excludes(_ earlier: Use, _ use: Use) -> Bool {
    guard !earlier.isEmpty else { return false }
    if earlier.contains(.metadata) || use.contains(.metadata) { return true }
    let bothActive = earlier.contains(.active) && use.contains(.active)
    if use.contains(.table) { return !earlier.isDisjoint(with: [.data, .packed]) || bothActive }
    if earlier.contains(.table) { return true }
    if use.contains(.packed) { return earlier.contains(.data) }
    return earlier.contains(.packed) || bothActive
  }

  /// The clusters that a chunk stands for.
  func clusters(ofChunk index: Int) -> Range<UInt64> {
    let start = window.lowerBound + UInt64(index) * Self.chunkClusterCount
    return start..<min(start + Self.chunkClusterCount, window.upperBound)
  }

  /// The counts of a chunk's clusters; empty where nothing there is in use.
  func counts(ofChunk index: Int) -> [UInt32] {
    chunks[index].words.withLock { words in words.map { $0 & Self.maximumCount } }
  }
}
