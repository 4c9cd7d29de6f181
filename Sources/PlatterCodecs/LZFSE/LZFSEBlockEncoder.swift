/// Gathers literals and matches and writes them as one packed LZFSE block (`bvx2`). Reused from block to block.
struct LZFSEBlockEncoder {
  private static let maximumLiteralRun = 315
  private static let maximumMatchLength = 2359

  private var literals: [UInt8] = []
  private var triples: [Triple] = []
  private var rawByteCount = 0
  private var lastDistance = 0
  private let literalBits = BitString()
  private let matchBits = BitString()
  private let headerBits = BitString()

  private struct Triple {
    var literals: Int
    var length: Int
    /// 0: as before.
    var distance: Int
  }

  init() {
    literals.reserveCapacity(LZFSE.maximumLiteralCount)
    triples.reserveCapacity(LZFSE.maximumMatchCount)
  }

  /// Literals, then a copy; in as many triples and blocks as it takes.
  mutating func append(
    literals run: UnsafeRawBufferPointer, length: Int, distance: Int, _ writer: inout ByteWriter
  ) {
    var start = 0
    while run.count - start > Self.maximumLiteralRun {
      unsafe appendTriple(run[start..<start + Self.maximumLiteralRun], length: 0, distance: distance, &writer)
      start += Self.maximumLiteralRun
    }
    let first = min(length, Self.maximumMatchLength)
    unsafe appendTriple(run[start...], length: first, distance: distance, &writer)
    var left = length - first
    while left > 0 {
      let part = min(left, Self.maximumMatchLength)
      unsafe appendTriple(run[run.count...], length: part, distance: distance, &writer)
      left -= part
    }
  }

  private mutating func appendTriple(
    _ run: Slice<UnsafeRawBufferPointer>, length: Int, distance: Int, _ writer: inout ByteWriter
  ) {
    let literalCount = unsafe run.count
    if triples.count == LZFSE.maximumMatchCount || literals.count + literalCount > LZFSE.maximumLiteralCount {
      flush(&writer)
    }
    unsafe literals.append(contentsOf: run)
    triples.append(
      Triple(literals: literalCount, length: length, distance: distance == lastDistance ? 0 : distance))
    lastDistance = distance
    rawByteCount += literalCount + length
  }

  /// Writes what was gathered, if anything.
  mutating func flush(_ writer: inout ByteWriter) {
    guard !triples.isEmpty else { return }
    while literals.count % 4 != 0 { literals.append(0) }
    var frequencies = Frequencies()
    for literal in literals { frequencies.literals.counts[Int(literal)] += 1 }
    for triple in triples {
      frequencies.literalRuns.counts[LZFSEValue.literalRun(triple.literals).symbol] += 1
      frequencies.matchLengths.counts[LZFSEValue.matchLength(triple.length).symbol] += 1
      frequencies.distances.counts[LZFSEValue.distance(triple.distance).symbol] += 1
    }
    frequencies.normalise()
    let literalStates = encodeLiterals(frequencies.literals)
    let matchStates = encodeMatches(frequencies)
    appendHeader(frequencies, literalStates, matchStates, &writer)
    literalBits.append(to: &writer)
    matchBits.append(to: &writer)
    literals.removeAll(keepingCapacity: true)
    triples.removeAll(keepingCapacity: true)
    rawByteCount = 0
    lastDistance = 0
  }

  /// Last to first, since the decoder reads the bits from their end.
  private mutating func encodeLiterals(_ table: LZFSEEncoderTable) -> [Int] {
    literalBits.removeAll()
    var states = [0, 0, 0, 0]
    let entries = table.entries
    for index in stride(from: literals.count - 1, through: 0, by: -1) {
      entries[Int(literals[index])].encode(&states[index & 3], literalBits)
    }
    literalBits.finish()
    return states
  }

  /// The states of literal run, match length and distance at the end.
  private mutating func encodeMatches(_ frequencies: Frequencies) -> [Int] {
    matchBits.removeAll()
    // Eight bytes that readers may load in excess.
    matchBits.push(0, 32)
    matchBits.push(0, 32)
    var states = [0, 0, 0]
    let literalRuns = frequencies.literalRuns.entries
    let matchLengths = frequencies.matchLengths.entries
    let distances = frequencies.distances.entries
    for triple in triples.reversed() {
      let distance = LZFSEValue.distance(triple.distance)
      matchBits.push(distance.extra, distance.extraBits)
      distances[distance.symbol].encode(&states[2], matchBits)
      let length = LZFSEValue.matchLength(triple.length)
      matchBits.push(length.extra, length.extraBits)
      matchLengths[length.symbol].encode(&states[1], matchBits)
      let literals = LZFSEValue.literalRun(triple.literals)
      matchBits.push(literals.extra, literals.extraBits)
      literalRuns[literals.symbol].encode(&states[0], matchBits)
    }
    matchBits.finish()
    return states
  }

  private func appendHeader(
    _ frequencies: Frequencies, _ literalStates: [Int], _ matchStates: [Int], _ writer: inout ByteWriter
  ) {
    let packed = headerBits
    packed.removeAll()
    for table in [frequencies.literalRuns, frequencies.matchLengths, frequencies.distances, frequencies.literals] {
      for count in table.counts { Self.push(frequency: count, packed) }
    }
    packed.finish()
    writer.appendLittleEndian(LZFSE.packedMagic)
    writer.appendLittleEndian(UInt32(rawByteCount))
    writer.appendLittleEndian(
      UInt64(literals.count) | UInt64(literalBits.byteCount) << 20 | UInt64(triples.count) << 40
        | UInt64(7 - literalBits.spareBitCount) << 60)
    var word = UInt64(matchBits.byteCount) << 40 | UInt64(7 - matchBits.spareBitCount) << 60
    for (index, state) in literalStates.enumerated() { word |= UInt64(state) << UInt64(10 * index) }
    writer.appendLittleEndian(word)
    word = UInt64(LZFSEHeader.packedFixedByteCount + packed.byteCount)
    for (index, state) in matchStates.enumerated() { word |= UInt64(state) << UInt64(32 + 10 * index) }
    writer.appendLittleEndian(word)
    packed.append(to: &writer)
  }

  private static func push(frequency: Int, _ bits: BitString) {
    switch frequency {
    case 0: bits.push(0, 2)
    case 1: bits.push(2, 2)
    case 2: bits.push(1, 3)
    case 3: bits.push(5, 3)
    case 4...7: bits.push(3 + 8 * (frequency - 4), 5)
    case 8...23: bits.push(7 + 16 * (frequency - 8), 8)
    default: bits.push(15 + 16 * (frequency - 24), 14)
    }
  }
}

/// How often each symbol occurs, per table.
private struct Frequencies {
  var literalRuns = LZFSEEncoderTable(symbolCount: 20, stateCount: LZFSE.lengthStateCount)
  var matchLengths = LZFSEEncoderTable(symbolCount: 20, stateCount: LZFSE.lengthStateCount)
  var distances = LZFSEEncoderTable(symbolCount: 64, stateCount: LZFSE.distanceStateCount)
  var literals = LZFSEEncoderTable(symbolCount: 256, stateCount: LZFSE.literalStateCount)

  mutating func normalise() {
    literalRuns.normalise()
    matchLengths.normalise()
    distances.normalise()
    literals.normalise()
  }
}
