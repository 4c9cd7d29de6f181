import PlatterCore
import Synchronization

/// How often each cluster of one window of the file is referred to, and by what. Filled by many threads at once.
///
/// Memory: 4 bytes for each cluster of the window, 8 where the ledger knows guests, in chunks that are made when something
/// in them is in use: 32 MiB at the most.
final class ClusterLedger: Sendable {
  static let chunkClusterCount: UInt64 = 1 << 16

  /// Clusters of a window. An image with snapshots has smaller ones, since its ledger knows guests.
  static func windowClusterCount(knowsGuests: Bool) -> UInt64 { knowsGuests ? 1 << 22 : 1 << 23 }

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
    fileprivate static let all: UInt32 = 0x3f00_0000

    /// Uses that a cluster of this use cannot have as well.
    fileprivate var excluded: Use {
      if contains(.metadata) { return Use(rawValue: Self.all) }
      let active: Use = contains(.active) ? .active : []
      if contains(.table) { return [.metadata, .data, .packed, active] }
      // Packed units share clusters, with each other and with the same units of other trees.
      if contains(.packed) { return [.metadata, .table, .data] }
      return [.metadata, .table, .packed, active]
    }
  }

  /// One reference in a word, since there are millions: cluster, copied flag, and a number of the caller's own.
  struct Reference: BitwiseCopyable {
    static let tokenLimit: UInt64 = 1 << 15
    private static let copiedFlag: UInt64 = 1 << 15
    private let word: UInt64

    /// - Parameter token: below `tokenLimit`.
    init(cluster: UInt64, isCopied: Bool = false, token: UInt64 = 0) {
      word = cluster << 16 | (isCopied ? Self.copiedFlag : 0) | token
    }

    var cluster: UInt64 { word >> 16 }
    var isCopied: Bool { word & Self.copiedFlag != 0 }
    var token: UInt64 { word & (Self.tokenLimit - 1) }
  }

  /// What references of one call have in common.
  struct Manner {
    var use: Use
    /// References that each stands for.
    var weight: UInt32 = 1
    /// Place in the guest of the reference whose token is 0; others follow it. One cluster has one place, in all trees; nil
    /// where that does not hold.
    var guest: UInt64?
    /// The copied flag must say whether the file counts the cluster exactly once.
    var isFlagged = false
  }

  /// A reference that cannot be right.
  struct Finding {
    enum Problem {
      /// The cluster has uses that exclude this one.
      case conflict(Use)
      /// It is one more than the refcounts can ever say.
      case surplus
      /// Only the copied flag is wrong.
      case wrongFlag
    }

    var token: Int
    var cluster: UInt64
    var problem: Problem
  }

  /// Larger counts are not told apart.
  static let maximumCount: UInt32 = 0x00ff_ffff
  /// The file counts the cluster exactly once.
  private static let isCountedOnce: UInt32 = 1 << 31

  fileprivate struct Words {
    /// Count in the low 24 bits, uses above; empty until something is in use.
    var uses: [UInt32] = []
    /// Place in the guest of each cluster of data or table; empty where places are not known.
    var guests: [UInt32] = []
  }

  private final class Chunk: Sendable {
    let words = Mutex(Words())
  }

  /// Clusters of the file.
  let window: Range<UInt64>
  private let refcounts: RefcountReader
  private let knowsGuests: Bool
  /// References that a cluster may have.
  private let limit: UInt32
  private let chunks: [Chunk]

  init(_ window: Range<UInt64>, _ refcounts: RefcountReader, knowsGuests: Bool, limit: UInt32) {
    self.window = window
    self.refcounts = refcounts
    self.knowsGuests = knowsGuests
    self.limit = limit
    let count = UInt64(window.count).dividedRoundingUp(by: Self.chunkClusterCount)
    chunks = (0..<count).map { _ in Chunk() }
  }

  var chunkCount: Int { chunks.count }

  /// Adds references, all of which lie in the window.
  func add(_ references: [Reference], _ manner: Manner) throws(ImageError) -> [Finding] {
    var findings: [Finding] = []
    var next = 0
    while next < references.count {
      let chunk = Int((references[next].cluster - window.lowerBound) / Self.chunkClusterCount)
      // Neighbours mostly lie in one chunk, so that the lock is taken once for many.
      next = try chunks[chunk].words.withLock { words throws(ImageError) in
        if words.uses.isEmpty { words = try newWords(chunk) }
        return add(references, from: next, manner, clusters(ofChunk: chunk).lowerBound, &words, &findings)
      }
    }
    return findings
  }

  /// - Returns: the number of the first reference that lies in another chunk.
  private func add(
    _ references: [Reference], from first: Int, _ manner: Manner, _ base: UInt64, _ words: inout Words,
    _ findings: inout [Finding]
  ) -> Int {
    let weight = min(manner.weight, Self.maximumCount)
    let (use, excluded) = (manner.use.rawValue, manner.use.excluded.rawValue)
    let guest = words.guests.isEmpty ? nil : manner.guest
    for index in first..<references.count {
      let reference = references[index]
      let slot = reference.cluster &- base
      guard slot < UInt64(words.uses.count) else { return index }
      let earlier = words.uses[Int(slot)]
      let count = min(earlier & Self.maximumCount, Self.maximumCount - weight) + weight
      var problem: Finding.Problem?
      if earlier & excluded != 0 {
        problem = .conflict(Use(rawValue: earlier & Use.all))
      } else if let guest, !words.place(guest &+ reference.token, Int(slot), manner.use, earlier) {
        problem = .conflict(Use(rawValue: earlier & Use.all))
      } else if count > limit {
        problem = .surplus
      } else if manner.isFlagged, reference.isCopied != (earlier & Self.isCountedOnce != 0) {
        problem = .wrongFlag
      }
      if let problem {
        findings.append(Finding(token: Int(reference.token), cluster: reference.cluster, problem: problem))
      }
      words.uses[Int(slot)] = count | (earlier & ~Self.maximumCount) | use
    }
    return references.count
  }

  private func newWords(_ chunk: Int) throws(ImageError) -> Words {
    let clusters = clusters(ofChunk: chunk)
    var words = Words(uses: [UInt32](repeating: 0, count: clusters.count))
    if knowsGuests { words.guests = [UInt32](repeating: 0, count: clusters.count) }
    try refcounts.forEachPart(of: clusters) { part, _, bytes in
      let first = Int(part.lowerBound - clusters.lowerBound)
      let counts = refcounts.geometry.counts(in: bytes.rawBytes, count: part.count)
      for index in counts.indices where counts[index] == 1 { words.uses[first + index] = Self.isCountedOnce }
    }
    return words
  }

  /// The clusters that a chunk stands for.
  func clusters(ofChunk index: Int) -> Range<UInt64> {
    let start = window.lowerBound + UInt64(index) * Self.chunkClusterCount
    return start..<min(start + Self.chunkClusterCount, window.upperBound)
  }

  /// A word for each of a chunk's clusters, with its count in the low bits (`maximumCount`); empty where nothing there is
  /// in use.
  func words(ofChunk index: Int) -> [UInt32] { chunks[index].words.withLock { $0.uses } }

  /// The counts of a chunk's clusters; empty where nothing there is in use.
  func counts(ofChunk index: Int) -> [UInt32] { words(ofChunk: index).map { $0 & Self.maximumCount } }
}

extension ClusterLedger.Words {
  /// Notes where in the guest a cluster lies.
  /// - Returns: whether it lies where an earlier use of the same kind had it. Compared modulo 2^32.
  fileprivate mutating func place(_ guest: UInt64, _ slot: Int, _ use: ClusterLedger.Use, _ earlier: UInt32) -> Bool {
    let guest = UInt32(truncatingIfNeeded: guest)
    let kind = use.intersection([.table, .data]).rawValue
    if earlier & kind == 0 {
      guests[slot] = guest
      return true
    }
    return guests[slot] == guest
  }
}
