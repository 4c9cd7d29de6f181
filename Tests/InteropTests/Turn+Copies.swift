import TestSupport
import WriterProof

/// Copies that take the disk's place.
extension TurnModel {
  /// A copy, made in another way: flat, or over the same backing image.
  func convert(_ side: TurnSide, _ random: inout SeededGenerator) throws {
    let rows = ProofRow.all.filter { $0.byteCount * 6 >= UInt64(bytes.count) && $0.byteCount <= 8 << 20 }
    guard let any = rows.randomElement(using: &random) else { return }
    let target = TurnTests.row(any, &random)
    names += 1
    let copy = TurnImage(row: target, name: "disk\(names)")
    var options =
      ["-O", "qcow2", "-o", copy.options] + (target.isEncrypted && !row.isEncrypted ? TurnImage.secret : [])
    let keepsBacking = backing != nil && !random.chance(3)
    if let backing, keepsBacking { options += ["-B", backing, "-F", bases[backing]?.format ?? "raw"] }
    if random.chance(3) { options.append("-c") }
    let keepsBitmaps = !bitmaps.isEmpty && !random.chance(3)
    if keepsBitmaps { options.append("--bitmaps") }
    guard try take(side, image.words("convert", options, [copy.name])) else { return }
    image = copy
    takeOver(target)
    hasPacked = true
    snapshots = []
    if !keepsBitmaps { bitmaps = [:] }
    if !keepsBacking { backing = nil }
  }

  /// A part of the disk, by `dd`. The image that it makes has no options.
  func copyPart(_ side: TurnSide, _ random: inout SeededGenerator) throws {
    let sizes = [512, 1000, cluster, 65536].filter { $0 * 500 >= bytes.count }
    guard let block = sizes.randomElement(using: &random), !bytes.isEmpty else { return }
    let total = (bytes.count + block - 1) / block
    let skip = random.chance(2) ? 0 : Int.random(in: 0..<total, using: &random)
    // QEMU counts from the disk's start on.
    let last = random.chance(2) ? nil : Int.random(in: skip + 1...total + 1, using: &random)
    names += 1
    let copy = TurnImage(row: .plain, name: "disk\(names)")
    let operands = ["bs=\(block)", "skip=\(skip)"] + (last.map { ["count=\($0)"] } ?? [])
    guard try take(side, image.copyWords(to: copy.name, operands)) else { return }
    let part = bytes.part(skip * block..<min(bytes.count, last.map { $0 * block } ?? bytes.count))
    // A qcow2 disk has whole sectors.
    bytes = part.resized(to: (part.count + 511) / 512 * 512)
    image = copy
    takeOver(.plain)
    (snapshots, bitmaps, backing) = ([], [:], nil)
  }
}

extension ProofRow {
  /// What `create` makes without options.
  fileprivate static let plain = ProofRow(words: [
    "compat=1.1", "cluster_size=65536", "refcount_bits=16", "lazy_refcounts=off", "extended_l2=off", "data_file=off",
    "compression_type=zlib", "encrypt.format=off", "preallocation=off", "backing=none",
  ])
}

extension TurnImage {
  fileprivate func copyWords(to copy: String, _ operands: [String]) -> [String] {
    let opening = row.isEncrypted ? Self.secret + ["--image-opts"] : ["-f", "qcow2"]
    return ["dd"] + opening + ["-O", "qcow2", "if=\(row.isEncrypted ? description : name)", "of=\(copy)"] + operands
  }
}
