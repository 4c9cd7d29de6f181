package import SystemPackage

/// Whether names found inside an image (backing file, data file, extent, parent, segment) may be opened.
///
/// A name inside an image is a request, not a right: it is always a plain path, never a protocol, never `json:`, and
/// only ever opens a regular file.
public enum ReferencePolicy: String, Sendable, CaseIterable {
  /// Nothing is opened.
  case none
  /// Files in the image's own folder or beneath it, reached without `..` and without leaving by a symbolic link.
  case siblings
  /// Any regular file that the user can open.
  case any
}

/// Opens what images refer to, as the policy allows. Carried by every open.
package struct ReferenceResolver: Sendable {
  /// Bytes of a name at most: the system's own limit for a path.
  package static let maximumNameByteCount = 4095

  package var policy: ReferencePolicy
  /// Called for every file just opened, to take locks; the flag says whether it is open for writing.
  package var opened: @Sendable (FileStore) throws(ImageError) -> Void

  package init(
    _ policy: ReferencePolicy, opened: @escaping @Sendable (FileStore) throws(ImageError) -> Void = { _ in }
  ) {
    self.policy = policy
    self.opened = opened
  }

  /// Opens a file that an image names.
  ///
  /// - Parameters:
  ///   - reference: the name inside the image; relative names are relative to the image's folder.
  ///   - image: the file that names it; nil where the image is no file (then nothing can be opened).
  ///   - what: the reference's role, for the error: "backing file", "extent 3".
  ///   - isWritable: open for writing; only where the operation is about to write that file.
  /// - Throws: `.forbidden` where the policy says no; `.notFound`, `.io`, `.unsupported` from the opening.
  package func open(_ reference: FilePath, from image: FilePath?, what: String, isWritable: Bool = false)
    throws(ImageError) -> FileStore
  {
    let shown = reference.printable
    func refused(_ reason: String) -> ImageError {
      ImageError(.forbidden, "the \(what) \"\(shown)\" is not opened: \(reason)", file: image?.string)
    }
    guard let image else { throw refused("the image is not a file, so its folder is unknown") }
    let bytes = reference.utf8Bytes
    guard !bytes.isEmpty else { throw refused("the name is empty") }
    guard bytes.count <= Self.maximumNameByteCount else { throw refused("the name has \(bytes.count) bytes") }
    if let scheme = Self.scheme(bytes) {
      throw refused("\"\(scheme)\" names a protocol, and names inside an image are plain paths only")
    }
    var options = FileStore.Options(isWritable: isWritable)
    do throws(ImageError) {
      let store: FileStore
      switch policy {
      case .none:
        throw refused("references are not followed (policy \"none\")")
      case .any:
        let path = reference.isAbsolute ? reference : image.removingLastComponent().pushing(reference)
        store = try FileStore(path, options)
      case .siblings:
        guard !reference.isAbsolute else {
          throw refused("an absolute path leaves the image's folder (policy \"siblings\")")
        }
        guard !reference.components.contains(where: { $0.kind == .parentDirectory }) else {
          throw refused("\"..\" leaves the image's folder (policy \"siblings\")")
        }
        options.refusesLinks = false
        let path = image.removingLastComponent().pushing(reference)
        store = try FileStore(path, options)
        try requireInside(store, folder: image.folder, refused)
      }
      guard !store.isBlockDevice else { throw refused("it is a device, not a regular file") }
      try opened(store)
      return store
    } catch {
      guard error.code != .forbidden, error.code != .busy else { throw error }
      throw ImageError(
        error.code, "the \(what) \"\(shown)\" cannot be opened: \(error.errno?.text ?? error.message)",
        file: image.string, errno: error.errno)
    }
  }

  /// What was opened must lie beneath the folder once all links are followed. The check is on the open file, so a
  /// link swapped meanwhile gains nothing.
  private func requireInside(_ store: FileStore, folder: FilePath, _ refused: (String) -> ImageError)
    throws(ImageError)
  {
    guard let real = RealPath.of(store), let realFolder = RealPath.of(folder: folder) else {
      throw refused("its place cannot be found (policy \"siblings\")")
    }
    guard real.starts(with: realFolder) else {
      throw refused("a symbolic link leads out of the image's folder (policy \"siblings\")")
    }
  }

  /// The protocol that a name starts with, as QEMU reads names: letters, digits and "+-." up to a colon before any
  /// slash. A plain path that holds such a colon can be written with "./" in front.
  package static func scheme(_ bytes: [UInt8]) -> String? {
    guard let colon = bytes.firstIndex(of: UInt8(ascii: ":")), colon > 0 else { return nil }
    if let slash = bytes.firstIndex(of: UInt8(ascii: "/")), slash < colon { return nil }
    return String(decoding: bytes[...colon], as: UTF8.self)
  }
}

extension FilePath {
  /// The folder that the file lies in; "." for a bare name.
  package var folder: FilePath {
    let parent = removingLastComponent()
    return parent.isEmpty ? "." : parent
  }

  /// The name's bytes.
  package var utf8Bytes: [UInt8] {
    let count = length
    return unsafe withPlatformString { name in
      unsafe UnsafeBufferPointer(start: name, count: count).map { UInt8(bitPattern: $0) }
    }
  }

  /// The name for people: control characters are escaped, so that a hostile name cannot drive a terminal.
  package var printable: String {
    var text = ""
    for scalar in string.unicodeScalars {
      if scalar.value < 0x20 || (0x7f...0x9f).contains(scalar.value) {
        text += "\\x" + (scalar.value < 16 ? "0" : "") + String(scalar.value, radix: 16)
      } else {
        text.unicodeScalars.append(scalar)
      }
    }
    return text
  }

  /// A path from bytes as an image holds them; nil where they hold a NUL.
  package init?(bytes: [UInt8]) {
    guard !bytes.contains(0) else { return nil }
    let characters = bytes.map { CInterop.PlatformChar(bitPattern: $0) } + [0]
    self = unsafe characters.withUnsafeBufferPointer { characters in
      guard let base = characters.baseAddress else { return FilePath() }
      return unsafe FilePath(platformString: base)
    }
  }
}
