package import PlatterCore

extension Raw: CreatableFormat {
  package static let creationOptions: [CreationOption] = [
    CreationOption("size", .size, "Virtual disk size"),
    CreationOption(
      "preallocation", .text, "Preallocation mode (allowed values: off, falloc, full)", isForFileSystem: true),
    CreationOption("nocow", .flag, "Turn off copy-on-write (valid only on btrfs)", isForFileSystem: true),
    CreationOption(
      "extent_size_hint", .size, "Extent size hint for the image file, 0 to disable", isForFileSystem: true),
  ]

  private enum Preallocation: String { case off, falloc, full }

  /// What a new file has of its disk from the start, as with QEMU: whoever tries out which alignment direct I/O needs
  /// learns it from data, not from a hole. [observed: qemu-img 7.2]
  private static let firstBlockByteCount: UInt64 = 4096

  private static func check(_ request: CreationRequest) throws(ImageError) -> (UInt64, Preallocation) {
    try request.checkNames(creationOptions)
    _ = try request.flag("nocow")
    _ = try request.size("extent_size_hint")
    let text = request.text("preallocation") ?? "off"
    guard let preallocation = Preallocation(rawValue: text) else {
      throw .invalidArgument("invalid parameter value: \(text)")
    }
    // The unit that guests are given is a sector.
    guard let byteCount = request.byteCount.roundedUp(toMultipleOf: 512), byteCount <= UInt64(Int64.max) else {
      throw .invalidArgument("the disk's size \(request.byteCount) is larger than any file can be")
    }
    return (byteCount, preallocation)
  }

  package static func create(in store: any ByteStore, _ request: CreationRequest) throws(ImageError) {
    let (byteCount, preallocation) = try check(request)
    try naming(store.name) { () throws(ImageError) in
      try store.resize(to: byteCount)
      switch preallocation {
      case .off: try store.writeZeros(0..<min(byteCount, firstBlockByteCount))
      case .falloc: try store.allocate(0..<byteCount)
      case .full: try store.writeZeros(0..<byteCount)
      }
    }
  }

  package static func measuringUnit(_ request: CreationRequest) throws(ImageError) -> UInt64 { 1 }

  /// The file is the disk, holes or not.
  package static func measure(_ request: CreationRequest, dataByteCount: UInt64) throws(ImageError)
    -> ImageMeasurement
  {
    let (byteCount, _) = try check(request)
    return ImageMeasurement(required: byteCount, fullyAllocated: byteCount)
  }
}
