package import SystemPackage
package import Testing

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// A program of somebody else's that tests compare with, or learn from.
package struct Tool: Sendable, CustomStringConvertible {
  package var name: String
  /// The Debian package that brings it.
  package var package: String
  /// Where it is; nil where it is not installed.
  package var path: String?

  package init(_ name: String, package: String) {
    self.name = name
    self.package = package
    path = Self.find(name)
  }

  package static let qemuImg = Tool("qemu-img", package: "qemu-utils")
  package static let qemuIO = Tool("qemu-io", package: "qemu-utils")
  package static let qemuNBD = Tool("qemu-nbd", package: "qemu-utils")
  package static let nbdkit = Tool("nbdkit", package: "nbdkit")
  package static let nbdinfo = Tool("nbdinfo", package: "libnbd-bin")
  package static let nbdcopy = Tool("nbdcopy", package: "libnbd-bin")
  package static let sevenZip = Tool("7zz", package: "7zip")
  package static let dmg2img = Tool("dmg2img", package: "dmg2img")
  package static let vmdkinfo = Tool("vmdkinfo", package: "libvmdk-utils")
  package static let vhdiinfo = Tool("vhdiinfo", package: "libvhdi-utils")
  package static let qcowinfo = Tool("qcowinfo", package: "libqcow-utils")
  package static let cryptsetup = Tool("cryptsetup", package: "cryptsetup-bin")
  package static let timeout = Tool("timeout", package: "coreutils")
  package static let python = Tool("python3", package: "python3")

  package var isInstalled: Bool { path != nil }
  package var description: String { name }

  /// Runs the tool. Throws where it is not installed.
  package func callAsFunction(_ arguments: String..., in folder: FilePath? = nil, timeoutSeconds: Int = 120)
    throws -> RunResult
  {
    try run(path ?? name, arguments, in: folder, timeoutSeconds: timeoutSeconds)
  }

  /// The same; throws where the exit status is not 0.
  @discardableResult
  package func succeed(_ arguments: String..., in folder: FilePath? = nil, timeoutSeconds: Int = 120)
    throws -> RunResult
  {
    let result = try run(path ?? name, arguments, in: folder, timeoutSeconds: timeoutSeconds)
    guard result.succeeded else {
      throw RunError(description: "\(name) \(arguments.joined(separator: " ")): \(result.status): \(result.errorText)")
    }
    return result
  }

  private static func find(_ name: String) -> String? {
    // Sbin holds cryptsetup and is not in everybody's path.
    let folders = (environmentValue("PATH") ?? "").split(separator: ":").map(String.init) + ["/usr/sbin", "/sbin"]
    for folder in folders {
      let candidate = folder + "/" + name
      if unsafe access(candidate, X_OK) == 0 { return candidate }
    }
    return nil
  }
}

extension Trait where Self == ConditionTrait {
  /// Skips the test, and says why, where one of the tools is missing.
  package static func requires(_ tools: Tool...) -> Self {
    let missing = tools.filter { !$0.isInstalled }
    let list = missing.map { "\($0.name) is not installed (Debian package \($0.package))" }.joined(separator: "; ")
    return .enabled(if: missing.isEmpty, "\(list)")
  }
}
