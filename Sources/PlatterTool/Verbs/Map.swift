import Platter
import PlatterCore

/// `map`: where the guest's bytes lie, for the whole chain.
package enum MapVerb: Verb {
  package static let name = "map"
  package static let summary = "Show which parts of a disk hold data, and where."
  package static let operands = "FILENAME"
  package static let options =
    [
      SharedOptions.format,
      OptionSpec("s", "start-offset", .required("OFFSET"), "start there"),
      OptionSpec("l", "max-length", .required("LENGTH"), "look at no more than this"),
      SharedOptions.output, SharedOptions.forceShare,
    ] + SharedOptions.opening

  /// Entries fetched at once.
  private static let batchCount = 1024

  package static func run(_ call: Invocation) throws(Failure) -> Int32 {
    let start = try call.options.value("start-offset").map { text throws(Failure) in
      try SizeText.option(text, named: "start offset")
    }
    let length = try call.options.value("max-length").map { text throws(Failure) in
      try SizeText.option(text, named: "max length")
    }
    let operand = try call.singleOperand()
    let isJSON = try call.wantsJSON()
    let source = try call.source(operand)
    try call.checkFormatOptions()
    let image = try call.open(source, try call.openOptions())
    let first = start ?? 0
    let end = length.flatMap { first.adding($0) }.map { min($0, image.byteCount) } ?? image.byteCount
    if isJSON {
      try JSONMap(image: image, output: call.output).write(first, end)
    } else {
      try HumanMap(image: image, output: call.output).write(first, end)
    }
    return 0
  }

  /// Hands out entries from `start` to `end`, neighbours of one kind joined across batches.
  static func forEach(
    _ image: DiskImage, _ start: UInt64, _ end: UInt64, _ output: Output,
    _ body: (BlockStatus) throws(Failure) -> Void
  ) throws(Failure) {
    var position = start
    var batch: [BlockStatus] = []
    batch.reserveCapacity(batchCount + 64)
    while position < end {
      guard output.failure == nil else { return }
      do throws(ImageError) {
        position = try image.status(position..<end, limit: batchCount, into: &batch)
      } catch {
        throw Failure(error)
      }
      // The last entry may go on in the next batch.
      let settled = position < end ? batch.count - 1 : batch.count
      for index in 0..<max(0, settled) { try body(batch[index]) }
      batch.removeFirst(max(0, settled))
    }
  }
}

/// One line of JSON an entry; digits go straight into the buffer.
private struct JSONMap {
  let image: DiskImage
  let output: Output

  func write(_ start: UInt64, _ end: UInt64) throws(Failure) {
    output.write("[" as StaticString)
    var isFirst = true
    try MapVerb.forEach(image, start, end, output) { (entry: BlockStatus) throws(Failure) in
      if !isFirst { output.write(",\n" as StaticString) }
      isFirst = false
      write(entry)
    }
    if isFirst { writeEmpty(start) }
    output.write("]\n" as StaticString)
  }

  private func write(_ entry: BlockStatus) {
    output.write("{ \"start\": " as StaticString)
    output.write(decimal: entry.start)
    output.write(", \"length\": " as StaticString)
    output.write(decimal: entry.byteCount)
    output.write(", \"depth\": " as StaticString)
    output.write(decimal: UInt64(entry.depth))
    output.write(entry.isPresent ? ", \"present\": true" : ", \"present\": false" as StaticString)
    output.write(entry.isZero ? ", \"zero\": true" : ", \"zero\": false" as StaticString)
    output.write(entry.isData ? ", \"data\": true" : ", \"data\": false" as StaticString)
    if entry.hasOffset {
      output.write(", \"offset\": " as StaticString)
      output.write(decimal: entry.offset)
    }
    output.write("}" as StaticString)
  }

  /// A disk of no bytes still has one entry.
  private func writeEmpty(_ start: UInt64) {
    output.write("{ \"start\": " as StaticString)
    output.write(decimal: start)
    output.write(
      ", \"length\": 0, \"depth\": 0, \"present\": false, \"zero\": false, \"data\": false}" as StaticString)
  }
}

/// A table of the plain data.
private struct HumanMap {
  let image: DiskImage
  let output: Output

  func write(_ start: UInt64, _ end: UInt64) throws(Failure) {
    output.write(
      line: HumanText.left("Offset", 16) + HumanText.left("Length", 16) + HumanText.left("Mapped to", 16) + "File")
    try MapVerb.forEach(image, start, end, output) { (entry: BlockStatus) throws(Failure) in
      guard entry.isData else { return }
      guard entry.hasOffset else {
        throw Failure("File contains external, encrypted or compressed clusters.")
      }
      guard !entry.isZero else { return }
      output.write(HumanText.hexadecimal(entry.start, 16))
      output.write(HumanText.hexadecimal(entry.byteCount, 16))
      output.write(HumanText.hexadecimal(entry.offset, 16))
      output.write(line: image.layers[Int(entry.depth)].map.stores[Int(entry.store)].name)
    }
  }
}
