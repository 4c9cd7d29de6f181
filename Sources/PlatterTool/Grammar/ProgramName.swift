/// The name that the program answers to. A drop-in name keeps QEMU's habits and wording.
package enum ProgramName: String, Sendable, CaseIterable {
  case platter
  case qemuImg = "qemu-img"
  case qemuIO = "qemu-io"
  case qemuNBD = "qemu-nbd"

  package static let version = "0.1.0"
  /// The version of QEMU whose habits are kept: scripts look for it.
  package static let qemuVersion = "7.2.22"

  package var isDropIn: Bool { self != .platter }

  package var versionLine: String {
    isDropIn
      ? "\(rawValue) version \(Self.qemuVersion) (Platter \(Self.version))" : "platter \(Self.version)"
  }

  /// By the last part of the path that the program was called under; `platter` for any other name.
  package static func called(_ path: Argument) -> ProgramName {
    let name = path.bytes.split(separator: UInt8(ascii: "/")).last ?? []
    return ProgramName(rawValue: String(decoding: name, as: UTF8.self)) ?? .platter
  }
}
