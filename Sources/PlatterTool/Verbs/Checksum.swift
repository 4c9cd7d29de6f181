import Platter
import PlatterCore

/// `checksum`: a digest of the guest's bytes, the same whatever format holds them.
package enum ChecksumVerb: Verb {
  package static let name = "checksum"
  package static let summary = "Print a digest of a disk's content; equal for every format that holds the same bytes."
  package static let operands = "FILENAME"
  package static let options =
    [
      SharedOptions.format,
      OptionSpec(
        nil, "method", .required("METHOD"),
        "sha256-64k: over the parts that are not zero (default); sha256: as sha256sum of the raw disk"),
      OptionSpec("l", nil, .required("SNAPSHOT"), "read an internal snapshot"),
      OptionSpec("m", nil, .required("COUNT"), "threads, 1 to 64"),
      SharedOptions.output, SharedOptions.sourceCache, SharedOptions.quiet, SharedOptions.progress,
      SharedOptions.progressForm, SharedOptions.forceShare,
    ] + SharedOptions.opening

  package static func run(_ call: Invocation) throws(Failure) -> Int32 {
    let isJSON = try call.wantsJSON()
    let method = try method(call)
    let source = try call.source(try call.singleOperand())
    try call.checkFormatOptions()
    var openOptions = try call.openOptions()
    openOptions.snapshot = try call.options.value("l").map(SnapshotParameter.name)
    let image = try call.open(source, openOptions)
    var checksum = Checksum(image)
    checksum.method = method
    if let text = call.options.value("m") {
      guard let count = Int(text), (1...Workers.maximumCount).contains(count) else {
        throw Failure("-m takes a number from 1 to \(Workers.maximumCount), not '\(text)'")
      }
      checksum.workerCount = count
    }
    let digest = try digest(checksum, call).map(hexadecimal).joined()
    if isJSON {
      JSONWriter.write(
        [
          "filename": .text(source.fileName), "format": .text(image.formatName),
          "virtual-size": .unsigned(image.byteCount), "method": .text(method.rawValue), "digest": .text(digest),
        ], to: call.output)
      call.output.write("\n" as StaticString)
    } else {
      call.output.write("\(method.rawValue):\(digest)  ")
      call.output.write(bytes: source.fileNameBytes)
      call.output.write("\n" as StaticString)
    }
    return 0
  }

  private static func method(_ call: Invocation) throws(Failure) -> Checksum.Method {
    guard let text = call.options.value("method") else { return .tree }
    guard let method = Checksum.Method(rawValue: text) else {
      let names = Checksum.Method.allCases.map(\.rawValue).joined(separator: ", ")
      throw Failure("--method takes one of \(names), not '\(text)'")
    }
    return method
  }

  private static func digest(_ checksum: Checksum, _ call: Invocation) throws(Failure) -> [UInt8] {
    let progress = ProgressDisplay(try call.progressForm(), toStandardError: true)
    do throws(ImageError) {
      let digest = try checksum.run { done, total in
        progress.update(done, of: total)
        return true
      }
      progress.finish(succeeded: true)
      return digest
    } catch {
      progress.finish(succeeded: false)
      throw Failure(error)
    }
  }

  private static func hexadecimal(_ byte: UInt8) -> String {
    (byte < 16 ? "0" : "") + String(byte, radix: 16)
  }
}
