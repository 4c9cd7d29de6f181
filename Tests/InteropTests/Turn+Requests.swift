import PlatterCore
import TestSupport
import WriterProof

/// What a guest does.
extension TurnModel {
  /// Any bytes, sectors, subclusters or clusters; mostly few.
  func randomRange(_ random: inout SeededGenerator) -> Range<Int> {
    let unit = [1, 512, Int(row.mapUnit), cluster].randomElement(using: &random) ?? 1
    let start = Int.random(in: 0...bytes.count, using: &random) / unit * unit
    let longest = random.chance(8) ? bytes.count : cluster > 65536 ? Int(row.mapUnit) : 3 * cluster
    let length = Int.random(in: 0...longest, using: &random) / unit * unit + (random.chance(4) ? 0 : unit)
    return start..<min(bytes.count, start + length)
  }

  /// Up to four requests to one process.
  func writeSome(_ side: TurnSide, _ random: inout SeededGenerator) throws {
    try succeed(side, requests(&random))
  }

  /// Up to four requests; the model has them already.
  func requests(_ random: inout SeededGenerator) -> [String] {
    var requests: [String] = []
    for _ in 0..<Int.random(in: 1...4, using: &random) {
      let range = randomRange(&random)
      guard !range.isEmpty else { continue }
      touch(range)
      let place = "\(range.lowerBound) \(range.count)"
      switch Int.random(in: 0..<6, using: &random) {
      case 0...1:
        let value = UInt8.random(in: 0...255, using: &random)
        requests.append("write -q -P \(value) \(place)")
        change(range) { $0.put([UInt8](repeating: value, count: range.count), at: range.lowerBound) }
      case 2...3:
        let number = Int.random(in: 0..<4, using: &random)
        requests.append("write -q -s payload\(number) \(place)")
        change(range) { $0.put(Self.payload(number, range.count), at: range.lowerBound) }
      case 4:
        requests.append("write -q -z \(place)")
        change(range) { $0.clear(range) }
      default:
        requests.append("write -q -z -u \(place)")
        change(range) { $0.clear(range) }
      }
    }
    return requests
  }

  private func succeed(_ side: TurnSide, _ requests: [String]) throws {
    history.append("\(side): \(requests.joined(separator: ", "))")
    try succeed(side, .qemuIO, image.requests(requests))
  }

  /// What `write -s` makes of a short file: it begins again at its end.
  static func payload(_ number: Int, _ count: Int) -> [UInt8] {
    let piece = randomBytes(1 << 16, from: number << 17)
    var payload: [UInt8] = []
    payload.reserveCapacity(count)
    while payload.count < count { payload += piece.prefix(count - payload.count) }
    return payload
  }

  /// Gives up space: each whole unit reads as before or as zeros, and where version 3 has a mark for it, as zeros.
  func discard(_ side: TurnSide, _ random: inout SeededGenerator) throws {
    let range = randomRange(&random)
    guard !range.isEmpty else { return }
    try succeed(side, ["discard -q \(range.lowerBound) \(range.count)"])
    touch(range)
    let found = try read(by: side.other)
    guard found.count == bytes.count else { throw WriterFault("the disk has \(found.count) bytes after a discard") }
    let isCertain = version >= 3 ? !isDataFileRaw : backing == nil
    let unit = Int(row.mapUnit)
    var settled = bytes
    for start in stride(from: range.lowerBound / unit * unit, to: range.upperBound, by: unit) {
      let part = start..<min(start + unit, bytes.count)
      let whole = start / cluster * cluster..<min((start / cluster + 1) * cluster, bytes.count)
      var zeros = bytes
      zeros.clear(part)
      let mayStay = !isCertain || !(range.lowerBound <= whole.lowerBound && whole.upperBound <= range.upperBound)
      let isWhole = range.lowerBound <= part.lowerBound && part.upperBound <= range.upperBound
      if isWhole, found.isEqual(zeros, part) {
        settled.clear(part)
      } else if !mayStay {
        throw WriterFault("bytes at \(start) are not zeros after a discard of \(range)")
      }
    }
    let after = settled
    change(range) { $0 = after }
    if isDataFileRaw { isDataFileWhole = false }
  }

  /// One cluster or a few, packed, where nobody has been yet.
  func writeCompressed(_ side: TurnSide, _ random: inout SeededGenerator) throws {
    guard let first = untouched.sorted().randomElement(using: &random) else { return }
    var last = first
    while random.chance(2), untouched.contains(last + 1) { last += 1 }
    let range = first * cluster..<min((last + 1) * cluster, bytes.count)
    guard !range.isEmpty else { return }
    let value = UInt8.random(in: 0...255, using: &random)
    let content = random.chance(3) ? Self.payload(1, range.count) : [UInt8](repeating: value, count: range.count)
    try scratch.write(content, to: "packed")
    touch(range)
    // A count of one bit cannot say that two packed clusters share their host cluster. QEMU writes packed clusters into
    // encrypted images, in the clear; we do not.
    let isDone = try take(
      side, image.requests(["write -q -c -s packed \(range.lowerBound) \(range.count)"]), with: .qemuIO,
      isOursAlone: refcountBits == 1,
      isTheirsAlone: row.isEncrypted)
    guard isDone else { return }
    hasPacked = true
    change(range) { $0.put(content, at: range.lowerBound) }
  }

  // MARK: Content

  /// A request named a range: bitmaps may say all of it.
  private func touch(_ range: Range<Int>) {
    for index in range.lowerBound / cluster..<(range.upperBound + cluster - 1) / cluster { untouched.remove(index) }
    let range = UInt64(range.lowerBound)..<UInt64(range.upperBound)
    for name in bitmaps.keys { bitmaps[name]?.touch(range, cluster: row.cluster) }
  }

  /// Changes the array, and what the bitmaps must know of it.
  private func change(_ range: Range<Int>, _ body: (inout [UInt8]) -> Void) {
    let old = bitmaps.isEmpty ? [] : bytes.part(range)
    body(&bytes)
    guard !bitmaps.isEmpty else { return }
    let new = bytes.part(range)
    let range = UInt64(range.lowerBound)..<UInt64(range.upperBound)
    for name in bitmaps.keys { bitmaps[name]?.note(range, cluster: row.cluster, old, new) }
  }
}
