import PlatterCore

/// Pieces of big-endian tables (L2 tables) in memory, some of them newer than the file. Bounded: clean pieces go when
/// room is needed, dirty ones are for the caller to publish in time.
///
/// Invariant: a piece without dirty words equals the file.
struct WordCache {
  struct Piece {
    var words: [UInt64]
    /// Words that are newer than the file.
    var dirty: Range<Int>?
    var lastUse: UInt64
  }

  let capacity: Int
  private(set) var pieces: [UInt64: Piece] = [:]
  private(set) var dirtyCount = 0
  private var clock: UInt64 = 0

  init(capacity: Int) { self.capacity = max(capacity, 4) }

  /// The words of the piece at a file offset, loaded where they are not here.
  mutating func words(at offset: UInt64, count: Int, _ store: any ByteStore) throws(ImageError) -> [UInt64] {
    try load(at: offset, count: count, store)
    return pieces[offset]?.words ?? []
  }

  mutating func word(_ index: Int, ofPieceAt offset: UInt64, count: Int, _ store: any ByteStore) throws(ImageError)
    -> UInt64
  {
    try load(at: offset, count: count, store)
    return pieces[offset]?.words[index] ?? 0
  }

  mutating func set(_ index: Int, ofPieceAt offset: UInt64, to value: UInt64, count: Int, _ store: any ByteStore)
    throws(ImageError)
  {
    try load(at: offset, count: count, store)
    guard var dirty = pieces[offset]?.dirty else {
      pieces[offset]?.words[index] = value
      pieces[offset]?.dirty = index..<index + 1
      dirtyCount += 1
      return
    }
    dirty = min(dirty.lowerBound, index)..<max(dirty.upperBound, index + 1)
    pieces[offset]?.words[index] = value
    pieces[offset]?.dirty = dirty
  }

  private mutating func load(at offset: UInt64, count: Int, _ store: any ByteStore) throws(ImageError) {
    clock += 1
    if pieces[offset] != nil {
      pieces[offset]?.lastUse = clock
      return
    }
    let bytes = try store.readFully("L2 table", at: offset, count: count * 8)
    if pieces.count >= capacity { evict() }
    pieces[offset] = Piece(words: Words.decode(bytes), dirty: nil, lastUse: clock)
  }

  private mutating func evict() {
    var clean: [(use: UInt64, offset: UInt64)] = []
    for (offset, piece) in pieces where piece.dirty == nil { clean.append((piece.lastUse, offset)) }
    clean.sort { $0.use < $1.use }
    for (_, offset) in clean.prefix(max(1, clean.count / 4)) { pieces[offset] = nil }
  }

  /// The dirty words of the pieces that `isWanted` picks. They are dirty until `settle` is told that they were written.
  func pendingWrites(where isWanted: (UInt64) -> Bool) -> [PendingWrite] {
    var writes: [PendingWrite] = []
    for (offset, piece) in pieces where isWanted(offset) {
      guard let dirty = piece.dirty else { continue }
      writes.append(PendingWrite(piece: offset, content: .words(piece.words), part: dirty))
    }
    return writes.sorted { $0.piece < $1.piece }
  }

  /// Notes that pieces, which did not change since, are in the file.
  mutating func settle(_ writes: [PendingWrite]) {
    for write in writes {
      pieces[write.piece]?.dirty = nil
      dirtyCount -= 1
    }
  }

  /// Forgets pieces in a range of the file that no longer is a table.
  mutating func drop(_ range: Range<UInt64>) {
    for (offset, piece) in pieces where range.contains(offset) {
      if piece.dirty != nil { dirtyCount -= 1 }
      pieces[offset] = nil
    }
  }
}

/// 64-bit words and their big-endian bytes.
enum Words {
  static func decode(_ bytes: [UInt8]) -> [UInt64] {
    let raw = bytes.rawBytes
    var words: [UInt64] = []
    words.reserveCapacity(bytes.count / 8)
    for index in 0..<bytes.count / 8 { words.append(raw.bigEndian(at: index * 8) ?? 0) }
    return words
  }

  static func encode(_ words: some Collection<UInt64>) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: words.count * 8)
    bytes.withMutableRawBytes { raw in
      var offset = 0
      for word in words {
        raw.storeBigEndian(word, at: offset)
        offset += 8
      }
    }
    return bytes
  }
}
