package import PlatterCore
import SystemPackage

extension ParentLocator {
  /// The names to try: the relative path, then its bare name and the other paths' in the image's own folder.
  ///
  /// Windows volumes and drive letters mean nothing elsewhere, but a file that moved with its parent finds it again.
  var backingReference: BackingReference {
    var names: [FilePath] = []
    let relative = relativePath.map { $0.replacingBackslashes() }
    let others = [relativePath, absolutePath, volumePath].compactMap { $0?.lastWindowsComponent }
    for name in [relative].compactMap({ $0 }) + others where !name.isEmpty {
      let path = FilePath(name)
      if !names.contains(path) { names.append(path) }
    }
    return BackingReference(
      names: names, formatName: VHDX.name,
      displayName: relative ?? absolutePath ?? volumePath ?? "")
  }
}

extension String {
  fileprivate func replacingBackslashes() -> String { String(map { $0 == "\\" ? "/" : $0 }) }

  /// What stands behind the last slash of either kind; nil where that is no file's name.
  fileprivate var lastWindowsComponent: String? {
    guard let last = split(whereSeparator: { $0 == "\\" || $0 == "/" }).last else { return nil }
    return [".", ".."].contains(last) ? nil : String(last)
  }
}

extension VHDXMap {
  /// Checks that a parent holds what this file was made over: its data GUID is one of those noted, and its sectors have
  /// the same size. It may be smaller or larger, and have other blocks.
  package func accept(parent: any ImageMap) throws(ImageError) {
    guard let locator = metadata.parentLocator else {
      throw ImageError(.invalidArgument, "the file has no parent", file: store.name)
    }
    guard let parent = parent as? VHDXMap else {
      throw ImageError(
        .corrupt, "the parent \"\(parent.stores[0].name)\" is of format \(parent.formatName), not vhdx",
        file: store.name)
    }
    let guid = parent.headers.current.dataWriteGUID
    guard guid == locator.linkage || guid == locator.linkage2 else {
      throw ImageError(
        .corrupt,
        "the parent \"\(parent.store.name)\" has data GUID \(guid), but the file was made over \(locator.linkage): "
          + "it is another disk, or was changed since", file: store.name)
    }
    guard parent.geometry.sectorByteCount == geometry.sectorByteCount else {
      throw ImageError(
        .corrupt,
        "the parent \"\(parent.store.name)\" has sectors of \(parent.geometry.sectorByteCount) bytes, the file of "
          + "\(geometry.sectorByteCount)", file: store.name)
    }
  }
}
