package import PlatterCore
import PlatterCrypto

extension LUKS: CreatableFormat {
  package static let creationOptions: [CreationOption] =
    [
      CreationOption("size", .size, "Virtual disk size"),
      CreationOption("key-secret", .text, "ID of the secret that provides the keyslot passphrase"),
    ] + LUKSSettings.options() + [
      CreationOption(
        "preallocation", .text, "Preallocation mode (allowed values: off, falloc, full)", isForFileSystem: true),
      CreationOption("nocow", .flag, "Turn off copy-on-write (valid only on btrfs)", isForFileSystem: true),
      CreationOption(
        "extent_size_hint", .size, "Extent size hint for the image file, 0 to disable", isForFileSystem: true),
    ]

  /// A request, checked.
  private struct NewVolume {
    /// `metadata` is all there with `off`.
    enum Preallocation: String { case off, metadata, falloc, full }

    var byteCount: UInt64
    var settings: LUKSSettings
    var secretID: String
    var preallocation: Preallocation

    /// Bytes of the whole file.
    var fileByteCount: UInt64

    init(_ request: CreationRequest) throws(ImageError) {
      try request.checkNames(creationOptions)
      _ = try request.flag("nocow")
      _ = try request.size("extent_size_hint")
      guard let secretID = request.text("key-secret") else {
        throw .invalidArgument("Parameter 'key-secret' is required for cipher")
      }
      self.secretID = secretID
      settings = try LUKSSettings(request)
      let text = request.text("preallocation") ?? "off"
      guard let preallocation = Preallocation(rawValue: text) else {
        throw .invalidArgument("invalid parameter value: \(text)")
      }
      self.preallocation = preallocation
      guard let byteCount = request.byteCount.roundedUp(toMultipleOf: LUKSHeader.sectorByteCount),
        let sum = byteCount.adding(LUKSHeader.areaByteCount(settings.suite)), sum <= UInt64(Int64.max)
      else { throw .invalidArgument("the disk's size \(request.byteCount) is larger than any file can be") }
      self.byteCount = byteCount
      fileByteCount = sum
    }
  }

  /// The file gets its length and space first, the key slot next, the header last.
  package static func create(in store: any ByteStore, _ request: CreationRequest) throws(ImageError) {
    try naming(store.name) { () throws(ImageError) in
      let wanted = try NewVolume(request)
      guard let passphrase = try request.secret(wanted.secretID) else {
        throw ImageError(.notFound, "No secret with id '\(wanted.secretID)'")
      }
      let volume = try LUKSHeader.create(LUKSCreation(wanted.settings), passphrase: passphrase)
      try store.resize(to: wanted.fileByteCount)
      let payload = volume.header.payloadOffset..<wanted.fileByteCount
      switch wanted.preallocation {
      case .off, .metadata: break
      case .falloc: try store.allocate(payload)
      case .full: try store.writeZeros(payload)
      }
      try volume.steps.carryOut(on: store) { () throws(ImageError) in try store.flush() }
    }
  }

  package static func measuringUnit(_ request: CreationRequest) throws(ImageError) -> UInt64 { 1 }

  /// Header, key slots and the whole disk: encrypted bytes have no holes.
  package static func measure(_ request: CreationRequest, dataByteCount: UInt64) throws(ImageError)
    -> ImageMeasurement
  {
    let byteCount = try NewVolume(request).fileByteCount
    return ImageMeasurement(required: byteCount, fullyAllocated: byteCount)
  }
}
