/// A writable map whose image can be told what it is anew, without touching the guest's bytes.
///
/// The engine holds off all other requests during these calls. Each change takes effect with one write of the header.
package protocol AmendableMap: WritableMap {
  /// Changes options that `create` set, under their names there.
  /// - Throws: `.invalidArgument` for an option or value that is none, `.unsupported` for a change that cannot be made;
  ///   everything that can be known is checked before the first write.
  func amend(_ options: [String: String], _ barrier: Barrier) throws(ImageError)

  /// Records another backing image, or none, and believes that it has the same bytes. Open the image again afterwards.
  /// - Parameter name: the bytes that go into the image; nil for none.
  /// - Throws: `.unsupported` where the name does not fit; nothing is changed then.
  func setBacking(name: [UInt8]?, formatName: String?, _ barrier: Barrier) throws(ImageError)
}
