import PlatterCore

extension Repair {
  /// Rounds of moving clusters out of conflicts; each takes up to `CheckLog.maximumFixCount`.
  private static let maximumRoundCount = 256

  /// Gives clusters of their own to uses that exclude each other, and to references that no refcount can say.
  mutating func solveConflicts() throws(ImageError) {
    for _ in 0..<Self.maximumRoundCount {
      // One worker, so that the same image is always repaired in the same way.
      let scan = try scan(skipsRefcounts: true, workers: 1)
      try scan.run { _ in }
      guard try apply(scan.log.fixes, scan) else { return }
    }
  }

  /// Copies of one round, behind everything that the file has.
  private struct Copies {
    /// Cluster that is written next.
    var end: UInt64
    /// New entries by the place of the table entry.
    var changes: [UInt64: UInt64] = [:]
    /// New entries by the old one, for packed units: they may be shared.
    var packed: [UInt64: UInt64] = [:]
  }

  /// Takes clusters out of conflicts.
  /// - Returns: whether anything changed.
  private mutating func apply(_ fixes: [CheckLog.Fix], _ scan: ImageScan) throws(ImageError) -> Bool {
    // Tables first and alone: what a table that is really something else seems to name is no entry.
    let forTables = fixes.filter { fix in
      switch fix {
      case .copyTable, .dropTable: true
      case .copyData, .copyPacked: false
      }
    }
    // Behind the cluster that the upper bound of a packed length may reach.
    var copies = Copies(end: scan.clusterCount)
    for fix in forTables.isEmpty ? fixes : forTables {
      // A packed unit that lies in two clusters may be in two conflicts.
      guard copies.changes[fix.entry] == nil, let word = try newWord(fix, scan, &copies) else { continue }
      copies.changes[fix.entry] = word
    }
    guard !copies.changes.isEmpty else { return false }
    // Copies are on disk before an entry names them.
    if copies.end > scan.clusterCount { try store.resize(to: copies.end * scan.geometry.clusterByteCount) }
    try store.flush()
    for change in copies.changes.sorted(by: { $0.key < $1.key }) { try write([change.value], at: change.key) }
    try store.flush()
    return true
  }

  /// Copies what a fix needs copied to the end of the file.
  /// - Returns: what the entry becomes; nil where it stays.
  private mutating func newWord(_ fix: CheckLog.Fix, _ scan: ImageScan, _ copies: inout Copies)
    throws(ImageError) -> UInt64?
  {
    switch fix {
    case .dropTable(let entry):
      note("the L1 entry at \(entry.hex) is dropped: \(scan.geometry.l1EntryCoverage) bytes of the disk are lost")
      return 0
    case .copyTable(_, let word):
      return try copyCluster(at: L1Entry(rawValue: word).tableOffset, scan, &copies)
    case .copyData(_, let word):
      let l2 = L2Entry(rawValue: word)
      if l2.readsZero, !scan.geometry.hasExtendedL2 { return L2Entry.zero }
      guard scan.header.encryption == .luks else { return try copyCluster(at: l2.hostOffset, scan, &copies) }
      guard let cipher = try cipher(scan.header) else { return nil }
      return try copyCluster(at: l2.hostOffset, scan, &copies, cipher)
    case .copyPacked(_, let word):
      if let known = copies.packed[word] { return known }
      let copy = try copyPacked(word, scan, &copies)
      copies.packed[word] = copy
      return copy
    }
  }

  /// Takes the bytes of a copy from the budget; false where it is used up.
  private mutating func spend(_ byteCount: UInt64) -> Bool {
    guard let left = copyBudget else { return false }
    guard let rest = left.subtracting(byteCount) else {
      note("clusters that are used twice are left: copying all of them would more than double the file")
      copyBudget = nil
      return false
    }
    copyBudget = rest
    return true
  }

  /// Packed units are in the clear, also in encrypted images.
  private mutating func copyPacked(_ word: UInt64, _ scan: ImageScan, _ copies: inout Copies)
    throws(ImageError) -> UInt64?
  {
    let size = scan.geometry.clusterByteCount
    let location = PackedLocation(L2Entry(rawValue: word), clusterBits: scan.geometry.clusterBits)
    let inside = location.offset % 512
    let target = copies.end * size + inside
    let offsetBits = 70 - scan.geometry.clusterBits
    let clusters = (inside + location.byteCount).dividedRoundingUp(by: size)
    guard target + location.byteCount < 1 << offsetBits, spend(clusters * size) else { return nil }
    let bytes = try store.readPrefix(at: location.offset, count: Int(location.byteCount))
    try store.write(bytes.rawBytes, at: target)
    copies.end += clusters
    return ((word >> offsetBits) << offsetBits) | target
  }

  /// - Parameter cipher: of the bytes, where they are encrypted for the place where they lie.
  /// - Returns: where the copy lies; nil where there is no room for it.
  private mutating func copyCluster(
    at offset: UInt64, _ scan: ImageScan, _ copies: inout Copies, _ cipher: (any SectorCipher)? = nil
  ) throws(ImageError) -> UInt64? {
    let size = scan.geometry.clusterByteCount
    let target = copies.end * size
    guard target + size <= L1Entry.offsetMask else {
      throw .unsupported("the file would grow past what an entry can name (\(target.hex))")
    }
    guard spend(size) else { return nil }
    var bytes = try store.readPrefix(at: offset, count: Int(size))
    if let cipher { try Self.encrypt(&bytes, size, anew: cipher, from: offset, to: target) }
    try store.write(bytes.rawBytes, at: target)
    copies.end += 1
    return target
  }

  // MARK: Encryption

  /// Bytes of a cluster that is encrypted for one place become those for another. What a cut cluster lacks are zeros.
  private static func encrypt(
    _ bytes: inout [UInt8], _ size: UInt64, anew cipher: any SectorCipher, from old: UInt64, to new: UInt64
  ) throws(ImageError) {
    bytes.removeLast(bytes.count % cipher.sectorByteCount)
    try bytes.withMutableRawBytes { bytes throws(ImageError) in
      // The place in the guest does not matter to LUKS.
      try cipher.decrypt(&bytes, guestOffset: 0, hostOffset: old)
    }
    bytes.append(contentsOf: repeatElement(0, count: Int(size) - bytes.count))
    try bytes.withMutableRawBytes { bytes throws(ImageError) in
      try cipher.encrypt(&bytes, guestOffset: 0, hostOffset: new)
    }
  }

  /// The cipher of an image that is encrypted with LUKS; nil where nobody gave the passphrase.
  /// - Throws: `.invalidArgument` where it is wrong.
  mutating func cipher(_ header: Header) throws(ImageError) -> (any SectorCipher)? {
    if let known = unlocked { return known }
    if !didAsk, let phrase = try context.passphrase?() {
      var context = context
      context.isForFactsOnly = false
      context.usesData = true
      context.passphrase = { phrase }
      unlocked = try Opening(store, context).encryption(context).ciphers.first
    }
    if !didAsk, unlocked == nil {
      note(
        "clusters that are used twice are left: a copy must be encrypted anew for its place, for which the repair needs "
          + "the passphrase (encrypt.key-secret)")
    }
    didAsk = true
    return unlocked
  }
}

extension CheckLog.Fix {
  /// Where the table entry lies that changes.
  fileprivate var entry: UInt64 {
    switch self {
    case .copyData(let entry, _), .copyPacked(let entry, _), .copyTable(let entry, _), .dropTable(let entry): entry
    }
  }

  /// Whether guest bytes are copied.
  var isForData: Bool {
    if case .copyData = self { true } else { false }
  }
}
