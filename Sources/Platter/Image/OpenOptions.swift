public import PlatterCore

/// How an image is opened.
public struct OpenOptions: Sendable {
  /// What other programs may do with the files meanwhile. QEMU's programs respect these locks, and theirs are
  /// respected.
  public enum Locking: Sendable {
    /// Others may read, nobody may write.
    case exclusive
    /// No lock is taken and none looked at: for images that a running machine writes. What is read may be torn.
    case shared
  }

  /// What happens to bytes on their way to the disk: QEMU's cache modes.
  package enum CacheMode: String, Sendable, CaseIterable {
    case writeback, none, writethrough, directsync, unsafe
    package var isDirect: Bool { self == .none || self == .directsync }
    /// Whether the end of an operation waits for the disk.
    package var flushes: Bool { self != .unsafe }
  }

  /// The format's name ("qcow2"); nil finds it from the content. Guests can write any signature into a raw disk: name the
  /// format of images that you do not trust.
  public var format: String?
  /// Whether files that the image names may be opened.
  public var references: ReferencePolicy
  public var isWritable = false
  public var locking = Locking.exclusive
  /// An internal snapshot to read instead of the present state: its id or name.
  public var snapshot: String?
  /// Open the whole backing chain. Without it only the image itself can be examined.
  public var opensBacking = true
  /// Gives the passphrase of an encrypted image, all bytes as they are; nil when there is none.
  public var passphrase: (@Sendable () throws(ImageError) -> [UInt8]?)?
  /// Takes sentences about things that are odd but no error.
  public var warn: @Sendable (String) -> Void = { _ in }

  /// The image of the chain, counted from the top, that is opened for writing beside the top; nil for none.
  package var writableDepth: Int?
  /// Only facts are wanted: nothing is opened but the image itself, and a secret is not needed.
  package var isForFactsOnly = false
  /// Data is going to be read or written. Where not, an encrypted image of the chain needs no secret.
  package var usesData = true
  /// Only a check is wanted: damage that it reports itself is no reason to refuse the image.
  package var isForCheck = false
  /// Driver options by dotted names as `--image-opts` has them: "driver", "file.filename", "encrypt.key-secret".
  package var node: [String: String] = [:]
  /// What is to be held of the top image's backing image, in the form of `node`; empty for what the image says.
  package var backingNode: [String: String] = [:]
  package var cache = CacheMode.writeback
  /// Gives the secret object with this id.
  package var secrets: @Sendable (String) throws(ImageError) -> [UInt8]? = { _ in nil }

  public init(format: String? = nil, references: ReferencePolicy = .siblings) {
    self.format = format
    self.references = references
  }

  /// What gives the passphrase of the image that a node describes: the secret that it names, else whoever can be asked.
  func passphrase(of node: [String: String]) -> (@Sendable () throws(ImageError) -> [UInt8]?)? {
    guard let id = node["encrypt.key-secret"] ?? node["key-secret"] else { return passphrase }
    let secrets = secrets
    return { () throws(ImageError) in
      guard let secret = try secrets(id) else { throw ImageError(.notFound, "No secret with id '\(id)'") }
      return secret
    }
  }
}
