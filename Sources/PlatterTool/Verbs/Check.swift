import Platter
import PlatterCore
import SystemPackage

/// `check`: whether an image keeps what its format promises. Exit status 0 sound, 1 could not check, 2 damaged, 3 wasted
/// space only, 63 nothing to check in this format.
package enum CheckVerb: Verb {
  package static let name = "check"
  package static let summary = "Check the structure of an image, and its checksums where it has some."
  package static let operands = "FILENAME"
  package static let options =
    [
      SharedOptions.format, SharedOptions.output,
      OptionSpec("r", "repair", .required("leaks|all"), "repair what can be repaired"),
      SharedOptions.sourceCache, SharedOptions.quiet, SharedOptions.progressForm, SharedOptions.forceShare,
    ] + SharedOptions.opening

  private static let unsupportedStatus: Int32 = 63

  package static func run(_ call: Invocation) throws(Failure) -> Int32 {
    let mode = try repairMode(call)
    let operand = try call.singleOperand()
    let isJSON = try call.wantsJSON()
    let source = try call.source(operand)
    try call.checkFormatOptions()
    let (report, formatName) = if let mode { try repair(source, mode, call) } else { try check(source, call) }
    if isJSON {
      JSONWriter.write(json(report, formatName, source), to: call.output)
      call.output.write("\n" as StaticString)
    } else if !call.isQuiet {
      writeFixed(report, to: call.output)
      write(report, to: call.output)
    }
    return status(report)
  }

  private static func repairMode(_ call: Invocation) throws(Failure) -> RepairMode? {
    guard let text = call.options.value("repair") else { return nil }
    guard let mode = RepairMode(rawValue: text) else {
      throw Failure("Unknown option value for -r (expecting 'leaks' or 'all'): \(text)", isUsage: true)
    }
    return mode
  }

  private static func check(_ source: ImageSource, _ call: Invocation) throws(Failure) -> (CheckReport, String) {
    var openOptions = try call.openOptions()
    openOptions.opensBacking = false
    openOptions.isForCheck = true
    let image = try call.open(source, openOptions)
    guard let map = image.layers[0].map as? any CheckableMap else {
      throw Failure("This image format does not support checks", status: unsupportedStatus)
    }
    return (
      try watched(call, source) { (workers, progress) throws(ImageError) in
        try map.check(workers: workers, progress: progress)
      }, image.formatName
    )
  }

  private static func repair(_ source: ImageSource, _ mode: RepairMode, _ call: Invocation) throws(Failure)
    -> (CheckReport, String)
  {
    try call.refuseSharedWriting(source)
    let openOptions = try call.openOptions()
    var formatName = ""
    let report = try watched(call, source) { (workers, progress) throws(ImageError) in
      let outcome =
        switch source.place {
        case .path(let path):
          try Repair.run(path: path, mode, openOptions, workers: workers, progress: progress)
        case .node(let node):
          try Repair.run(node: node, mode, openOptions, workers: workers, progress: progress)
        }
      formatName = outcome.formatName
      return outcome.report
    }
    return (report, formatName)
  }

  /// Runs a check on all processors, shows its progress, and says what it found.
  private static func watched(
    _ call: Invocation, _ source: ImageSource,
    _ body: (Int, @escaping @Sendable (Double) -> Bool) throws(ImageError) -> CheckReport
  ) throws(Failure) -> CheckReport {
    let progress = ProgressDisplay(try call.progressForm())
    do throws(ImageError) {
      let report = try body(min(Workers.processorCount, Workers.maximumCount)) { share in
        progress.update(UInt64(share * 10_000), of: 10_000)
        return true
      }
      progress.finish(succeeded: true)
      for message in report.messages where !call.isQuiet { call.messages.line(message) }
      return report
    } catch {
      progress.finish(succeeded: false)
      if error.code == .unsupported, error.message.hasSuffix("has no repair") {
        throw Failure("This image format does not support checks", status: unsupportedStatus)
      }
      // Whatever keeps a repair from its work is found when the image is opened, but for these.
      let isLate = [.io, .cancelled, .unsupported].contains(error.code) && !error.message.hasPrefix("cannot be opened")
      throw isLate
        ? OpenFailure.withHint(error)
        : OpenFailure.describe(error, source.written, file: source.path?.string, call.program)
    }
  }

  private static func status(_ report: CheckReport) -> Int32 {
    if report.checkErrors > 0 { return 1 }
    if report.corruptions > 0 { return 2 }
    return report.leaks > 0 ? 3 : 0
  }

  /// The members in the order of qemu-img 7.2; counts of nothing are left out, as there.
  private static func json(_ report: CheckReport, _ formatName: String, _ source: ImageSource) -> Property {
    var members: [Property.Member] = []
    func add(_ name: String, _ value: UInt64?) {
      if let value, value > 0 { members.append(Property.Member(name, .unsigned(value))) }
    }
    add("image-end-offset", report.imageEndOffset)
    add("compressed-clusters", report.compressedClusters)
    add("total-clusters", report.totalClusters)
    add("corruptions", UInt64(report.corruptions))
    add("corruptions-fixed", UInt64(report.corruptionsFixed))
    members.append(Property.Member("check-errors", .unsigned(UInt64(report.checkErrors))))
    add("leaks", UInt64(report.leaks))
    add("leaks-fixed", UInt64(report.leaksFixed))
    add("allocated-clusters", report.allocatedClusters)
    members.append(Property.Member("filename", .text(source.fileName)))
    members.append(Property.Member("format", .text(formatName)))
    add("fragmented-clusters", report.fragmentedClusters)
    return .object(members)
  }

  private static func writeFixed(_ report: CheckReport, to output: Output) {
    guard report.corruptionsFixed > 0 || report.leaksFixed > 0 else { return }
    output.write(line: "The following inconsistencies were found and repaired:\n")
    output.write(line: "    \(report.leaksFixed) leaked clusters")
    output.write(line: "    \(report.corruptionsFixed) corruptions\n")
    output.write(line: "Double checking the fixed image now...")
  }

  private static func write(_ report: CheckReport, to output: Output) {
    if report.corruptions == 0, report.leaks == 0, report.checkErrors == 0 {
      output.write(line: "No errors were found on the image.")
    }
    if report.corruptions > 0 {
      output.write(line: "\n\(report.corruptions) errors were found on the image.")
      output.write(line: "Data may be corrupted, or further writes to the image may corrupt it.")
    }
    if report.leaks > 0 {
      output.write(line: "\n\(report.leaks) leaked clusters were found on the image.")
      output.write(line: "This means waste of disk space, but no harm to data.")
    }
    if report.checkErrors > 0 {
      output.write(line: "\n\(report.checkErrors) internal errors have occurred during the check.")
    }
    writeClusters(report, to: output)
    if let end = report.imageEndOffset, end > 0 { output.write(line: "Image end offset: \(end)") }
  }

  private static func writeClusters(_ report: CheckReport, to output: Output) {
    guard let total = report.totalClusters, let allocated = report.allocatedClusters, total > 0, allocated > 0 else {
      return
    }
    func percent(_ part: UInt64, _ whole: UInt64) -> String {
      HumanText.twoDecimals(Double(part) * 100 / Double(whole)) + "%"
    }
    output.write(
      line: "\(allocated)/\(total) = \(percent(allocated, total)) allocated, "
        + "\(percent(report.fragmentedClusters ?? 0, allocated)) fragmented, "
        + "\(percent(report.compressedClusters ?? 0, allocated)) compressed clusters")
  }
}
