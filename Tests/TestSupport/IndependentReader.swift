package import SystemPackage
package import Testing

/// A reader of disk images, by somebody else and without a line shared with ours, that `Scripts/digest-with` runs.
package struct IndependentReader: Sendable, CustomTestStringConvertible {
  /// What a reader makes of one image.
  package enum Outcome: Equatable, Sendable {
    /// The disk's length, and the SHA-256 of its content as hexadecimal digits.
    case content(byteCount: UInt64, digest: String)
    case refused(String)
  }

  /// As the script calls it.
  package var name: String
  /// What must lie in the folder of readers.
  private var marker: String?

  package var testDescription: String { name }

  /// dissect.hypervisor: qcow2, VMDK, VHDX.
  package static let dissect = IndependentReader(name: "dissect", marker: "dissect")
  /// libqcow.
  package static let libqcow = IndependentReader(name: "lib", marker: "libqcow")
  /// libvmdk.
  package static let libvmdk = IndependentReader(name: "lib", marker: "libvmdk")
  /// libvhdi.
  package static let libvhdi = IndependentReader(name: "lib", marker: "libvhdi")
  /// libmodi: DMG.
  package static let libmodi = IndependentReader(name: "lib", marker: "libmodi")
  /// Python alone, for raw disks.
  package static let plain = IndependentReader(name: "plain", marker: nil)

  package var isInstalled: Bool {
    guard Tool.python.isInstalled else { return false }
    guard let marker else { return true }
    return namesInFolder(sourceTree().appending(".build-oracles/python")).contains { $0.hasPrefix(marker) }
  }

  /// Reads images of one format, each to its end.
  ///
  /// - Parameter snapshot: the name of a qcow2 snapshot to read instead.
  /// - Returns: an outcome a path, in their order.
  package func read(_ paths: [FilePath], format: String, snapshot: String? = nil) throws -> [Outcome] {
    let script = sourceTree().appending("Scripts/digest-with").string
    let option = snapshot.map { ["--snapshot", $0] } ?? []
    let result = try run(
      Tool.python.path ?? "python3", [script] + option + [name, format] + paths.map(\.string), timeoutSeconds: 1200)
    let outcomes = result.outputText.split(separator: "\n").map(Self.outcome)
    guard result.succeeded, outcomes.count == paths.count else {
      throw RunError(description: "digest-with \(name) \(format): \(result.status): \(result.errorText)")
    }
    return outcomes
  }

  private static func outcome(_ line: Substring) -> Outcome {
    let words = line.split(separator: " ", maxSplits: 1)
    guard words.count == 2, let byteCount = UInt64(words[0]) else { return .refused(String(line)) }
    return .content(byteCount: byteCount, digest: String(words[1]))
  }
}

extension Trait where Self == ConditionTrait {
  /// Skips the test, and says why, where one of the readers is missing.
  package static func requires(_ readers: IndependentReader...) -> Self {
    .enabled(if: readers.allSatisfy(\.isInstalled), "Scripts/install-readers could not install the reader")
  }
}
