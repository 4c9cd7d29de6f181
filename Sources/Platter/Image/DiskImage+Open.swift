public import PlatterCore
package import SystemPackage

extension DiskImage {
  /// Opens an image and its backing chain.
  ///
  /// - Parameters:
  ///   - path: a file or a block device.
  ///   - options: format, reference policy, locking and so on.
  /// - Throws: `.notFound`, `.io`, `.busy` for a held lock, `.corrupt`, `.truncated`, `.unsupported`, `.forbidden` for a
  ///   reference that the policy does not allow.
  public static func open(_ path: String, _ options: OpenOptions = OpenOptions()) throws(ImageError) -> DiskImage {
    try open(path: FilePath(path), options)
  }

  package static func open(path: FilePath, _ options: OpenOptions) throws(ImageError) -> DiskImage {
    let opener = Opener(options)
    return try opener.chain(from: opener.top(path, options.format ?? options.node["driver"]))
  }

  /// Opens what `--image-opts` or `json:` describe. `node` has dotted keys.
  package static func open(node: [String: String], _ options: OpenOptions) throws(ImageError) -> DiskImage {
    if node["driver"] == NullMap.name { return DiskImage(layers: [try NullMap.layer(node)]) }
    var options = options
    let name = try NodeName(node)
    if options.isWritable { try name.checkWritable() }
    options.node = name.options
    options.format = name.format ?? options.format
    options.backingNode = name.backing
    if name.isWithoutBacking { options.opensBacking = false }
    return try open(path: name.path, options)
  }

  /// Opens a store that is already there, without following anything: for bytes in memory.
  package static func open(_ store: any ByteStore, _ options: OpenOptions = OpenOptions()) throws(ImageError)
    -> DiskImage
  {
    let opener = Opener(options)
    return try opener.chain(
      from: opener.layer(
        store, path: nil, name: store.name, format: options.format, node: options.node,
        isWritable: options.isWritable))
  }

  /// Opens an image that was just made, for writing, under the name that it will have. Its backing chain is given.
  static func open(
    made files: NewFiles, at path: FilePath, format: String, backing: DiskImage?, _ options: OpenOptions
  ) throws(ImageError) -> DiskImage {
    try open(
      made: files.store, dataFile: files.dataFile, at: path, format: format, backing: backing, options)
  }

  static func open(
    made store: any ByteStore, dataFile: (any ByteStore)? = nil, at path: FilePath, format: String,
    backing: DiskImage?, _ options: OpenOptions
  ) throws(ImageError) -> DiskImage {
    var options = options
    options.isWritable = true
    // Names in it are the caller's own.
    options.references = .any
    let top = try Opener(options).layer(
      store, path: path, name: path.string, format: format, node: options.node, dataFile: dataFile,
      isWritable: true)
    return DiskImage(layers: [top] + (backing?.layers ?? []))
  }
}

/// Opens one image after the other down a chain.
private struct Opener {
  let options: OpenOptions
  let resolver: ReferenceResolver

  init(_ options: OpenOptions) {
    self.options = options
    let locking = options.locking
    resolver = ReferenceResolver(options.references) { store throws(ImageError) in
      if locking == .exclusive { try ImageLock.acquireForReading(store) }
    }
  }

  func top(_ path: FilePath, _ format: String?) throws(ImageError) -> DiskImage.Layer {
    var fileOptions = FileStore.Options(isWritable: options.isWritable)
    fileOptions.isDirect = options.cache.isDirect
    let store = try FileStore(path, fileOptions)
    if options.locking == .exclusive {
      if options.isWritable {
        try ImageLock.acquireForWriting(store)
      } else {
        try ImageLock.acquireForReading(store)
      }
    }
    return try layer(
      store, path: path, name: path.string, format: format, node: options.node, isWritable: options.isWritable)
  }

  func layer(
    _ store: any ByteStore, path: FilePath?, name: String, format: String?, node: [String: String],
    dataFile: (any ByteStore)? = nil, isWritable: Bool
  ) throws(ImageError) -> DiskImage.Layer {
    let type: any ImageFormat.Type
    if let format {
      type = try naming(name) { () throws(ImageError) in try Formats.named(format) }
    } else {
      type = try probe(store, name: name)
    }
    var context = OpenContext(
      path: path, resolver: resolver, isWritable: isWritable && store.isWritable, options: node)
    context.dataFile = dataFile
    context.isForFactsOnly = options.isForFactsOnly
    context.usesData = options.usesData
    context.isForCheck = options.isForCheck
    context.warn = options.warn
    context.passphrase = options.passphrase(of: node)
    let map = try naming(name) { () throws(ImageError) in try type.open(store, context) }
    return DiskImage.Layer(name: name, path: path, map: map, wasProbed: format == nil)
  }

  private func probe(_ store: any ByteStore, name: String) throws(ImageError) -> any ImageFormat.Type {
    let best = try Formats.probe(store)[0]
    let head = try store.readPrefix(count: 512)
    if best.score < Formats.certain, let known = Formats.unsupportedSignature(head.rawBytes) {
      throw ImageError(
        .unsupported, "looks like a \(known) image, which is not supported; name the format (raw) if it is not",
        file: name)
    }
    return best.format
  }

  /// Follows backing references from `top` down, and makes the image.
  func chain(from top: DiskImage.Layer) throws(ImageError) -> DiskImage {
    var layers = [top]
    if let snapshot = options.snapshot {
      let map = top.map
      layers[0].map = try naming(top.name) { () throws(ImageError) in try map.snapshot(named: snapshot) }
    }
    guard options.opensBacking, !options.isForFactsOnly else { return DiskImage(layers: layers) }
    var seen: [StoreIdentity: String] = [:]
    if let identity = top.map.stores.first?.identity { seen[identity] = top.name }
    while let last = layers.last, let reference = layers.count == 1 ? firstReference(of: last) : last.map.backing {
      guard layers.count < DiskImage.maximumChainLength else {
        throw ImageError(
          .corrupt, "the backing chain is longer than \(DiskImage.maximumChainLength) images", file: top.name)
      }
      if layers.count == 1, let node = backingNode(reference) {
        let below = try DiskImage.open(node: node, backingOptions)
        try naming(last.name) { () throws(ImageError) in try last.map.accept(parent: below.layers[0].map) }
        return DiskImage(layers: layers + below.layers)
      }
      let next = try open(reference, of: last, isWritable: options.writableDepth == layers.count)
      if let identity = next.map.stores.first?.identity {
        guard seen.updateValue(next.name, forKey: identity) == nil else {
          throw ImageError(
            .corrupt, "the backing file \"\(reference.displayName.printable)\" is already part of the chain: a loop",
            file: last.name)
        }
      }
      layers.append(next)
    }
    return DiskImage(layers: layers)
  }

  /// What the top image says of its backing image, as far as the caller did not say otherwise.
  private func firstReference(of top: DiskImage.Layer) -> BackingReference? {
    let node = options.backingNode
    guard var reference = top.map.backing else {
      return Self.namesFile(node) ? BackingReference(names: [], displayName: "") : nil
    }
    reference.formatName = node["driver"] ?? reference.formatName
    return reference
  }

  /// The backing image as the caller described it, where that names a file.
  private func backingNode(_ reference: BackingReference) -> [String: String]? {
    var node = options.backingNode
    guard Self.namesFile(node) else { return nil }
    node["driver"] = node["driver"] ?? reference.formatName
    return node
  }

  private static func namesFile(_ node: [String: String]) -> Bool {
    node.keys.contains { $0 == "filename" || $0.hasSuffix("file.filename") }
  }

  private var backingOptions: OpenOptions {
    var result = options
    result.format = nil
    result.isWritable = options.writableDepth == 1
    result.writableDepth = options.writableDepth.flatMap { $0 > 1 ? $0 - 1 : nil }
    result.snapshot = nil
    result.node = [:]
    result.backingNode = [:]
    return result
  }

  /// Opens the parent that a reference names, and has the child look at it.
  private func open(_ reference: BackingReference, of child: DiskImage.Layer, isWritable: Bool) throws(ImageError)
    -> DiskImage.Layer
  {
    let store = try first(of: reference, from: child, isWritable: isWritable)
    if isWritable, options.locking == .exclusive { try ImageLock.acquireForWriting(store) }
    let parent = try layer(
      store, path: store.path, name: store.path.printable, format: reference.formatName, node: [:],
      isWritable: isWritable)
    let map = child.map
    try naming(child.name) { () throws(ImageError) in try map.accept(parent: parent.map) }
    return parent
  }

  /// The first of a reference's names that is there; the error of its first name where none is.
  private func first(of reference: BackingReference, from child: DiskImage.Layer, isWritable: Bool)
    throws(ImageError) -> FileStore
  {
    let attempts = reference.names.lazy.map { name in attempt(name, from: child, isWritable: isWritable) }
    if let found = attempts.first(where: { !Self.isElsewhere($0) }) { return try found.get() }
    if let first = attempts.first { return try first.get() }
    let shown = reference.displayName.printable
    throw ImageError(.corrupt, "the backing file \"\(shown)\" has no usable name", file: child.name)
  }

  /// Whether the next name may do: the file is not there, or not where the policy lets one look (VMware's hints are often
  /// absolute paths of the machine that made them).
  private static func isElsewhere(_ attempt: Result<FileStore, ImageError>) -> Bool {
    if case .failure(let error) = attempt { return error.code == .notFound || error.code == .forbidden }
    return false
  }

  private func attempt(_ name: FilePath, from child: DiskImage.Layer, isWritable: Bool) -> Result<FileStore, ImageError>
  {
    do throws(ImageError) {
      return .success(try resolver.open(name, from: child.path, what: "backing file", isWritable: isWritable))
    } catch {
      return .failure(error)
    }
  }
}

extension String {
  /// For people: control characters escaped.
  package var printable: String { FilePath(self).printable }
}
