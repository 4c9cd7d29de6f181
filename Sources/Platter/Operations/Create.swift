package import PlatterCore
package import SystemPackage

/// Makes a new, empty image. It appears under its name when it is complete, and not at all when something fails.
package struct Create: Sendable {
  package var path: FilePath
  package var format: any CreatableFormat.Type
  /// Options as `-o` gives them; the backing file's name and format among them.
  package var options: [String: String]
  /// Guest bytes; nil takes the backing image's.
  package var byteCount: UInt64?
  /// Look at the backing file: it must be there, and gives the size where there is none.
  package var opensBacking = true
  /// How the backing image is opened.
  package var backingOptions = OpenOptions()

  package init(
    _ path: FilePath, format: any CreatableFormat.Type, byteCount: UInt64?, options: [String: String] = [:]
  ) {
    self.path = path
    self.format = format
    self.byteCount = byteCount
    self.options = options
  }

  /// Checks the request and opens the backing image, but makes nothing.
  /// - Throws: `.invalidArgument`; what opening the backing image throws.
  package func prepare() throws(ImageError) -> CreationRequest {
    var request = CreationRequest(byteCount: byteCount ?? 0, options: options, path: path)
    request.options["size"] = nil
    request.secret = backingOptions.secrets
    guard let backing = options["backing_file"], !backing.isEmpty else {
      guard byteCount != nil else { throw .invalidArgument("Image creation needs a size parameter").named(path.string) }
      return request
    }
    guard format.creationOptions.contains(where: { $0.name == "backing_file" }) else {
      throw .invalidArgument("Backing file not supported for file format '\(format.name)'").named(path.string)
    }
    guard backing != path.string else {
      throw .invalidArgument("Error: Trying to create an image with the same filename as the backing file")
        .named(path.string)
    }
    let base = try opensBacking ? openBacking(usesData: false) : nil
    guard options["backing_fmt"] != nil else {
      throw .invalidArgument("Backing file specified without backing format").named(path.string)
    }
    if let image = base {
      request.backingByteCount = image.byteCount
      if byteCount == nil { request.byteCount = image.byteCount }
    } else if byteCount == nil {
      throw .invalidArgument("Image creation needs a size parameter").named(path.string)
    }
    return request
  }

  /// The backing image and its chain, as the new image will find it; nil where there is none.
  /// - Parameter usesData: it is going to be read; where not, it needs no secret.
  package func openBacking(usesData: Bool = true) throws(ImageError) -> DiskImage? {
    guard let name = options["backing_file"], !name.isEmpty else { return nil }
    var open = backingOptions
    open.format = options["backing_fmt"]
    open.isWritable = false
    open.usesData = usesData
    open.snapshot = nil
    open.node = [:]
    let file = FilePath(name)
    return try DiskImage.open(path: file.isAbsolute ? file : path.removingLastComponent().pushing(file), open)
  }

  /// Makes the image.
  package func run() throws(ImageError) { try run(try prepare()) }

  /// Makes the image that `prepare` has checked.
  package func run(_ request: CreationRequest) throws(ImageError) { try make(request) { _ in } }

  /// Makes the image that `prepare` has checked, and lets `fill` write to it before it takes its name.
  func make(
    _ request: CreationRequest, isDirect: Bool = false, sharing: Bool = false,
    fill: (NewFiles) throws(ImageError) -> Void
  ) throws(ImageError) {
    var fileOptions = FileStore.Options(isWritable: true)
    fileOptions.isDirect = isDirect
    let files = try NewFiles(path, fileOptions, sharing: sharing)
    var request = request
    request.makeFile = { name throws(ImageError) in try files.make(name) }
    try format.create(in: files.store, request)
    try fill(files)
    try files.commit()
  }
}
