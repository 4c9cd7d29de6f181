/// A format of which images can be told what they are anew.
package protocol AmendableFormat: ImageFormat {
  /// The options that `amend` takes, in the order in which they are listed.
  static var amendOptions: [CreationOption] { get }
}

/// A writable map whose image can be told what it is anew, without touching the guest's bytes.
///
/// The engine holds off all other requests during these calls. Each change takes effect with one write of the header.
package protocol AmendableMap: WritableMap {
  /// Changes options that `create` set, under their names there, or passphrases.
  /// - Throws: `.invalidArgument` for an option or value that is none, `.unsupported` for a change that cannot be made;
  ///   everything that can be known is checked before the first write.
  func amend(_ request: AmendRequest, _ barrier: Barrier) throws(ImageError)
}

/// What an image is to become.
package struct AmendRequest: Sendable {
  /// Options as given, among those that the format lists.
  package var options: [String: String]
  /// Gives the secret object with this id.
  package var secret: @Sendable (String) throws(ImageError) -> [UInt8]?
  /// What may make an encrypted image unreadable for ever is done too.
  package var isForced: Bool
  /// Told how many steps of how many are done, where a change takes long.
  package var progress: @Sendable (_ done: UInt64, _ total: UInt64) -> Void = { _, _ in }

  package init(
    _ options: [String: String], isForced: Bool = false,
    secret: @escaping @Sendable (String) throws(ImageError) -> [UInt8]? = { _ in nil }
  ) {
    self.options = options
    self.isForced = isForced
    self.secret = secret
  }
}
