import Platter
import PlatterCore

/// `resize`: another size for the disk of an image.
package enum ResizeVerb: Verb {
  package static let name = "resize"
  package static let summary = "Change the size of an image's disk."
  package static let operands = "FILENAME [+|-]SIZE"
  package static let options =
    [
      SharedOptions.formatLetter,
      OptionSpec(nil, "shrink", "allow the disk to become smaller; what lies behind its new end is lost"),
      OptionSpec(nil, "preallocation", .required("off|metadata|falloc|full"), "reserve, or write, the new space"),
      SharedOptions.quiet,
    ] + SharedOptions.opening

  /// Sectors: sizes are multiples of it, except a raw disk's.
  private static let sectorByteCount: UInt64 = 512

  /// The last word is the size, even where it looks like an option: "-1M".
  package static func arrange(_ words: [Argument]) -> [Argument] {
    guard let last = words.last, last.text.hasPrefix("-"), last.text.dropFirst().first?.isNumber == true,
      !words.contains(Argument("--"))
    else { return words }
    return words.dropLast() + [Argument("--"), last]
  }

  package static func run(_ call: Invocation) throws(Failure) -> Int32 {
    let operands = call.options.operands
    guard operands.count >= 2 else { throw Failure("Not enough arguments", isUsage: true) }
    guard operands.count == 2 else { throw Failure("Expecting image file name and size", isUsage: true) }
    let change = try SizeChange(operands[1].text)
    let text = call.options.value("preallocation") ?? "off"
    guard let preallocation = Preallocation(rawValue: text) else {
      throw Failure("Invalid preallocation mode '\(text)'")
    }
    try call.checkFormatOptions(["f"])
    let source = try call.source(operands[0])
    let writer: DiskWriter
    do throws(Failure) {
      writer = try call.openForWriting(source, try call.openOptions(formatKey: "f"))
    } catch {
      throw error.sentences.contains { $0.hasSuffix(" format cannot be written") } && call.program.isDropIn
        ? Failure("Image format driver does not support resize") : error
    }
    try call.closing(writer) { writer throws(Failure) in
      try resize(writer, change, preallocation, call)
    }
    if !call.isQuiet { call.output.write(line: "Image resized.") }
    return 0
  }

  private static func resize(
    _ writer: DiskWriter, _ change: SizeChange, _ preallocation: Preallocation, _ call: Invocation
  ) throws(Failure) {
    let old = writer.image.byteCount
    guard let new = change.applied(to: old), new > 0 else { throw Failure("New image size must be positive") }
    if new <= old, preallocation != .off { throw Failure("Preallocation can only be used for growing images") }
    if new < old, !call.options.has("shrink") {
      call.messages.error("Use the --shrink option to perform a shrink operation.")
      call.messages.warn(
        "Shrinking an image will delete all data beyond the shrunken image's end. Before performing such an "
          + "operation, make sure there is no important data there.")
      throw .silent(status: 1)
    }
    let isRaw = writer.image.formatName == "raw"
    guard isRaw || new % sectorByteCount == 0 else { throw Failure("The new size must be a multiple of 512") }
    guard writer.supports(preallocation) else {
      throw Failure("Unsupported preallocation mode: \(preallocation.rawValue)")
    }
    do throws(ImageError) {
      try writer.resize(to: new)
      try writer.preallocate(old..<max(old, new), preallocation)
    } catch {
      // qemu-img says what a format refuses, and not of which image.
      throw call.program.isDropIn && error.code == .unsupported ? Failure(error.message) : call.refusal(error)
    }
  }
}

/// A size as `resize` takes it: a new one, or a difference.
package struct SizeChange: Sendable, Equatable {
  package enum Kind: Sendable { case absolute, more, less }

  package let kind: Kind
  package let byteCount: UInt64

  package init(_ text: String) throws(Failure) {
    kind =
      switch text.first {
      case "+": .more
      case "-": .less
      default: .absolute
      }
    let size = kind == .absolute ? Substring(text) : text.dropFirst()
    // SizeText takes a sign of its own.
    guard size.first != "+", let value = try? SizeText.parse(String(size)) else {
      throw Failure(
        "Parameter 'size' expects a non-negative number below 2^64",
        hint: "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively.")
    }
    byteCount = value
  }

  /// The size after the change; nil where it would be no size.
  package func applied(to old: UInt64) -> UInt64? {
    switch kind {
    case .absolute: byteCount
    case .more: old.adding(byteCount)
    case .less: old.subtracting(byteCount)
    }
  }
}
