import TestSupport
import WriterProof

/// A program that ends in the middle.
extension TurnModel {
  private var isDirty: Bool {
    get throws { try version >= 3 && scratch.read(image.name)[79] & 1 != 0 }
  }

  /// Writes, flushes and is killed. With lazy refcounts the image stays dirty: the other one reads it as it is, and a
  /// repair, or whoever opens it next for writing, puts it in order.
  func crash(_ side: TurnSide, _ random: inout SeededGenerator) throws {
    let requests = requests(&random)
    guard !requests.isEmpty else { return }
    let words = image.requests(requests + ["flush", "sigraise 9"])
    history.append("\(side): \(words.joined(separator: " "))")
    let result = try side.run(.qemuIO, words, in: folder, isKilled: true)
    guard result.status == 128 + 9 else {
      throw WriterFault("\(side) ended with \(result.status): \(result.errorText)")
    }
    let isDirty = try isDirty
    for judge in TurnSide.allCases {
      let status = try judge.run(.qemuImg, image.words("check"), in: folder).status
      guard status == 0 || isDirty && [2, 3].contains(status) else {
        throw WriterFault("\(judge): check of a disk whose writer was killed: \(status)")
      }
    }
    try compare(try read(by: side.other), bytes, "for \(side.other) after a crash")
    guard let next = TurnSide.allCases.randomElement(using: &random) else { return }
    // QEMU's -r leaks takes the mark away and leaves the counts wrong.
    if random.chance(3) { _ = try TurnSide.ours.run(.qemuImg, image.words("check", ["-r", "leaks"]), in: folder) }
    if random.chance(3) {
      try writeSome(next, &random)
    } else {
      history.append("\(next): check -r all")
      try succeed(next, .qemuImg, image.words("check", ["-r", "all"]))
    }
    guard try !self.isDirty else { throw WriterFault("the disk stayed dirty") }
    try dropBitmaps(&random)
  }

  /// Nobody knows what bitmaps lack that were in use.
  private func dropBitmaps(_ random: inout SeededGenerator) throws {
    for (name, bitmap) in bitmaps.sorted(by: { $0.key < $1.key }) {
      if let ranges = try? BitmapRanges.ours(scratch.file(image.name), name, image.openOptions()) {
        let found = Set(ranges.flatMap { bitmap.granules($0) })
        guard found.isSuperset(of: bitmap.must) else { throw WriterFault("bitmap \(name) lacks what a crash took") }
      }
      let side = TurnSide.allCases.randomElement(using: &random) ?? .ours
      try succeed(side, .qemuImg, image.words("bitmap", ["--remove"], [name]))
      bitmaps[name] = nil
    }
  }
}
