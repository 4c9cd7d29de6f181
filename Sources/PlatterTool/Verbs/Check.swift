import Platter
import PlatterCore

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
    if let repair = call.options.value("repair") {
      guard ["leaks", "all"].contains(repair) else {
        throw Failure("Unknown option value for -r (expecting 'leaks' or 'all'): \(repair)", isUsage: true)
      }
      throw Failure("not supported yet by platter: check -r")
    }
    let operand = try call.singleOperand()
    let isJSON = try call.wantsJSON()
    let source = try call.source(operand)
    try call.checkFormatOptions()
    var openOptions = try call.openOptions()
    openOptions.opensBacking = false
    let image = try call.open(source, openOptions)
    guard let map = image.layers[0].map as? any CheckableMap else {
      throw Failure("This image format does not support checks", status: unsupportedStatus)
    }
    let report = try check(map, call)
    if isJSON {
      JSONWriter.write(json(report, image, source), to: call.output)
      call.output.write("\n" as StaticString)
    } else if !call.isQuiet {
      write(report, to: call.output)
    }
    return status(report)
  }

  private static func check(_ map: any CheckableMap, _ call: Invocation) throws(Failure) -> CheckReport {
    let progress = ProgressDisplay(try call.progressForm())
    do throws(ImageError) {
      let report = try map.check(workers: min(Workers.processorCount, Workers.maximumCount)) { share in
        progress.update(UInt64(share * 10_000), of: 10_000)
        return true
      }
      progress.finish(succeeded: true)
      for message in report.messages where !call.isQuiet { call.messages.line(message) }
      return report
    } catch {
      progress.finish(succeeded: false)
      throw Failure(error)
    }
  }

  private static func status(_ report: CheckReport) -> Int32 {
    if report.checkErrors > 0 { return 1 }
    if report.corruptions > 0 { return 2 }
    return report.leaks > 0 ? 3 : 0
  }

  /// The members in the order of qemu-img 7.2; counts of nothing are left out, as there.
  private static func json(_ report: CheckReport, _ image: DiskImage, _ source: ImageSource) -> Property {
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
    members.append(Property.Member("format", .text(image.formatName)))
    add("fragmented-clusters", report.fragmentedClusters)
    return .object(members)
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
