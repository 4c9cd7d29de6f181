import Platter
import PlatterCore
import SystemPackage

/// `info`: size, format and facts of an image, or of its whole backing chain.
package enum InfoVerb: Verb {
  package static let name = "info"
  package static let summary = "Show format, size and facts of an image."
  package static let operands = "FILENAME"
  package static let options =
    [
      SharedOptions.format, SharedOptions.output,
      OptionSpec(nil, "backing-chain", "show the images under it too"),
      SharedOptions.forceShare,
    ] + SharedOptions.opening

  package static func run(_ call: Invocation) throws(Failure) -> Int32 {
    let operand = try call.singleOperand()
    let isJSON = try call.wantsJSON()
    let source = try call.source(operand)
    try call.checkFormatOptions()
    let reports = try InfoChain(call).reports(source, isWholeChain: call.options.has("backing-chain"))
    if isJSON {
      let objects = reports.map(\.json)
      JSONWriter.write(call.options.has("backing-chain") ? .list(objects) : objects[0], to: call.output)
      call.output.write("\n" as StaticString)
    } else {
      for (index, report) in reports.enumerated() {
        if index > 0 { call.output.write("\n" as StaticString) }
        report.write(to: call.output)
      }
    }
    return 0
  }
}

/// Opens the images of a chain one by one for their facts, so that a damaged parent does not hide its child.
private struct InfoChain {
  /// As the library's limit for chains.
  private static let maximumLength = DiskImage.maximumChainLength

  let call: Invocation

  init(_ call: Invocation) { self.call = call }

  func reports(_ source: ImageSource, isWholeChain: Bool) throws(Failure) -> [InfoReport] {
    var options = try call.openOptions()
    options.isForFactsOnly = true
    options.opensBacking = false
    var image = try call.open(source, options)
    var reports = [try report(image, source.fileNameBytes)]
    guard isWholeChain else { return reports }
    var seen: Set<StoreIdentity> = []
    while let reference = image.layers[0].map.backing {
      if let identity = image.layers[0].map.stores.first?.identity, !seen.insert(identity).inserted {
        throw Failure("Backing file '\(reports[reports.count - 1].fileName)' creates an infinite loop.")
      }
      guard reports.count < Self.maximumLength else {
        throw Failure("the backing chain is longer than \(Self.maximumLength) images")
      }
      image = try open(reference, of: image, options)
      reports.append(try report(image, Array(image.name.utf8)))
    }
    return reports
  }

  /// Opens a backing image, where the reference policy lets it.
  private func open(_ reference: BackingReference, of child: DiskImage, _ options: OpenOptions) throws(Failure)
    -> DiskImage
  {
    let resolver = ReferenceResolver(call.references)
    var firstError: ImageError?
    for name in reference.names {
      do throws(ImageError) {
        // The policy is asked first; the image is then opened under the path that it approved.
        let approved = try resolver.open(name, from: child.layers[0].path, what: "backing file")
        var options = options
        options.format = reference.formatName
        options.node = [:]
        return try DiskImage.open(path: approved.path, options)
      } catch {
        if firstError == nil { firstError = error }
        guard error.code == .notFound else { break }
      }
    }
    let error = firstError ?? ImageError(.corrupt, "the backing file has no usable name", file: child.name)
    let full = InfoReport.fullName(reference.displayName, child.name)
    if let reason = error.errno, call.program.isDropIn, error.code == .notFound {
      throw Failure("Could not open '\(full)': Could not open '\(full)': \(reason.description)")
    }
    throw OpenFailure.describe(error, full, call.program)
  }

  private func report(_ image: DiskImage, _ fileNameBytes: [UInt8]) throws(Failure) -> InfoReport {
    do throws(ImageError) {
      return try InfoReport(image, fileNameBytes: fileNameBytes, isDropIn: call.program.isDropIn)
    } catch {
      throw Failure(error)
    }
  }
}
