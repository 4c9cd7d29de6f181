package import PlatterCore

/// What `amend` is asked to do with the passphrases of a volume, in QEMU's words.
package struct KeySlotChange: Sendable {
  package enum Kind: Sendable, Equatable {
    /// One passphrase more, and how long opening with it shall take.
    case add(passphrase: [UInt8], milliseconds: UInt64)
    /// One less: the slot that is named, or those that a passphrase opens.
    case erase(passphrase: [UInt8]?)
  }

  package var kind: Kind
  package var keyslot: Int?
  /// The last slot may be erased, one in use overwritten.
  package var isForced: Bool

  /// - Parameter prefix: stands before each name: "encrypt." in qcow2.
  package static func options(prefix: String = "") -> [CreationOption] {
    [
      CreationOption("\(prefix)state", .text, "Select new state of affected keyslots (active/inactive)"),
      CreationOption(
        "\(prefix)new-secret", .text, "New secret to set in the matching keyslots. Empty string to erase"),
      CreationOption("\(prefix)old-secret", .text, "Select all keyslots that match this password"),
      CreationOption("\(prefix)keyslot", .number, "Select a single keyslot to modify explicitly"),
      CreationOption("\(prefix)iter-time", .number, "Time to spend in PBKDF in milliseconds"),
    ]
  }

  /// - Throws: `.invalidArgument` for options that do not go together, `.notFound` for a secret that nobody defined.
  package init(_ request: AmendRequest, prefix: String = "") throws(ImageError) {
    isForced = request.isForced
    keyslot = try request.options["\(prefix)keyslot"].map { text throws(ImageError) in
      Int(clamping: try CreationValue.number(text, of: "\(prefix)keyslot"))
    }
    let time = request.options["\(prefix)iter-time"]
    let milliseconds = try LUKSSettings.milliseconds(time, of: "\(prefix)iter-time")
    func secret(_ name: String) throws(ImageError) -> [UInt8]? {
      guard let id = request.options[prefix + name] else { return nil }
      guard let secret = try request.secret(id) else { throw ImageError(.notFound, "No secret with id '\(id)'") }
      return secret
    }
    switch request.options["\(prefix)state"] {
    case "active":
      guard request.options["\(prefix)old-secret"] == nil else {
        throw .invalidArgument("'old-secret' must not be given when activating keyslots")
      }
      guard let new = try secret("new-secret") else {
        throw .invalidArgument("'new-secret' is required to activate a keyslot")
      }
      kind = .add(passphrase: new, milliseconds: milliseconds)
    case "inactive":
      guard request.options["\(prefix)new-secret"] == nil else {
        throw .invalidArgument("'new-secret' must not be given when erasing keyslots")
      }
      guard time == nil else { throw .invalidArgument("'iter-time' must not be given when erasing keyslots") }
      kind = .erase(passphrase: try secret("old-secret"))
    case nil: throw .invalidArgument("Parameter 'state' is missing")
    case let other?:
      throw .invalidArgument("Parameter 'state' does not accept value '\(other.printableForError)'")
    }
  }
}

extension LUKSHeader {
  /// The header after a change, and how to get there.
  ///
  /// - Parameter key: the volume key.
  /// - Throws: `.invalidArgument` where the change makes no sense or, unless it is forced, would lose something; what
  ///   `readMaterial` throws.
  func changing(_ change: KeySlotChange, key: SecretBytes, readMaterial: MaterialReader) throws(ImageError) -> (
    header: LUKSHeader, steps: [LUKSStep]
  ) {
    if let keyslot = change.keyslot { try checkIndex(keyslot) }
    switch change.kind {
    case .add(let passphrase, let milliseconds):
      let iterations = try PBKDF2.iterations(takingMilliseconds: milliseconds, hash: hash, byteCount: keyByteCount)
      return try addingSlot(
        change.keyslot, passphrase: passphrase, key: key, iterations: iterations, isForced: change.isForced)
    case .erase(let passphrase):
      return try erasing(change.keyslot, passphrase, isForced: change.isForced, readMaterial)
    }
  }

  private func erasing(_ keyslot: Int?, _ passphrase: [UInt8]?, isForced: Bool, _ readMaterial: MaterialReader)
    throws(ImageError) -> (header: LUKSHeader, steps: [LUKSStep])
  {
    let opened = try passphrase.map { passphrase throws(ImageError) in
      try slots(openedBy: passphrase, readMaterial: readMaterial)
    }
    if let keyslot {
      if let opened, !opened.contains(keyslot) {
        throw .invalidArgument(
          "Given keyslot \(keyslot) doesn't contain the given old password for erase operation")
      }
      return try erasingSlots([keyslot], isForced: isForced)
    }
    guard let opened else {
      throw .invalidArgument(
        "To erase keyslot(s), either explicit keyslot index or the password currently contained in them must be given")
    }
    guard !opened.isEmpty else {
      throw .invalidArgument("No keyslots match given (old) password for erase operation")
    }
    guard opened.count < slots.count(where: \.isActive) || isForced else {
      throw .invalidArgument(
        "All the active keyslots match the (old) password that was given and erasing them will erase all the data in "
          + "the image irreversibly - refusing operation")
    }
    return try erasingSlots(opened, isForced: isForced)
  }
}
