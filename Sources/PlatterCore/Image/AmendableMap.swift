/// A writable map whose image can be told what it is anew, without touching the guest's bytes.
///
/// The engine holds off all other requests during these calls. Each change takes effect with one write of the header.
package protocol AmendableMap: WritableMap {
  /// Changes options that `create` set, under their names there.
  /// - Throws: `.invalidArgument` for an option or value that is none, `.unsupported` for a change that cannot be made;
  ///   everything that can be known is checked before the first write.
  func amend(_ options: [String: String], _ barrier: Barrier) throws(ImageError)
}
