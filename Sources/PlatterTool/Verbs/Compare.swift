import Platter
import PlatterCore

/// `compare`: whether two disks hold the same bytes. Exit status 0 equal, 1 different, 2 and more: an error.
package enum CompareVerb: Verb {
  package static let name = "compare"
  package static let summary = "Tell whether two disks hold the same; exit status 0 yes, 1 no, 2 and more: error."
  package static let operands = "FILENAME1 FILENAME2"
  package static let options =
    [
      SharedOptions.formatLetter,
      OptionSpec("F", nil, .required("FORMAT"), "format of the second image"),
      OptionSpec("s", nil, "sizes and allocation must agree too"),
      SharedOptions.sourceCache, SharedOptions.quiet, SharedOptions.progress, SharedOptions.progressForm,
      SharedOptions.forceShare,
    ] + SharedOptions.opening

  package static func run(_ call: Invocation) throws(Failure) -> Int32 {
    let operands = call.options.operands
    guard operands.count == 2 else { throw Failure("Expecting two image file names", isUsage: true) }
    let first: DiskImage
    let second: DiskImage
    do throws(Failure) {
      try call.checkFormatOptions(["f", "F"])
      first = try call.open(try call.source(operands[0]), try call.openOptions(formatKey: "f"))
      second = try call.open(try call.source(operands[1]), try call.openOptions(formatKey: "F"))
    } catch {
      throw error.with(status: 2)
    }
    return try compare(first, second, call)
  }

  private static func compare(_ first: DiskImage, _ second: DiskImage, _ call: Invocation) throws(Failure) -> Int32 {
    let progress = ProgressDisplay(try call.progressForm(), step: 2)
    var comparison = Compare(first, second)
    comparison.isStrict = call.options.has("s")
    let outcome: Compare.Outcome
    progress.start()
    defer { progress.finish(succeeded: false) }
    do throws(ImageError) {
      outcome = try comparison.run { done, total in
        progress.update(done, of: total)
        return true
      }
    } catch {
      throw Failure(error, status: error.code == .corrupt ? 3 : 4)
    }
    // Said only where the comparison came as far as the shorter disk's end.
    let common = min(first.byteCount, second.byteCount)
    switch outcome {
    case .identical where comparison.sizesDiffer: say("Warning: Image size mismatch!", call)
    case .contentDiffers(let offset) where offset >= common: say("Warning: Image size mismatch!", call)
    default: break
    }
    switch outcome {
    case .identical:
      progress.update(1, of: 1)
      say("Images are identical.", call)
      return 0
    case .contentDiffers(let offset): say("Content mismatch at offset \(offset)!", call)
    case .statusDiffers(let offset): say("Strict mode: Offset \(offset) block status mismatch!", call)
    case .sizeDiffers: say("Strict mode: Image size mismatch!", call)
    }
    return 1
  }

  private static func say(_ sentence: String, _ call: Invocation) {
    guard !call.isQuiet else { return }
    call.output.write(line: sentence)
    // Progress goes to the same place by a way of its own.
    call.output.flush()
  }
}
