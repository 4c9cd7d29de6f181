import PlatterCore
import Synchronization
import SystemPackage

/// The files of an image that is being made: the image, and those that it names. All appear whole or not at all.
final class NewFiles: Sendable {
  private let image: OutputFile
  private let folder: FilePath
  private let others = Mutex<[OutputFile]>([])

  /// - Throws: `.busy` where a present image of this name is in use; `.io`.
  init(_ path: FilePath, _ options: FileStore.Options, sharing: Bool) throws(ImageError) {
    image = try OutputFile(path, options, sharing: sharing)
    folder = path.folder
  }

  var store: FileStore { image.store }
  /// The external data file; nil where there is none.
  var dataFile: (any ByteStore)? { others.withLock { $0.first?.store } }

  /// Makes another file. What has its name already stays as it is until `commit`.
  /// - Parameter name: as it will stand in the image.
  func make(_ name: FilePath) throws(ImageError) -> any ByteStore {
    let path = name.isAbsolute ? name : folder.pushing(name)
    let file = try OutputFile(path, FileStore.Options(isWritable: true), sharing: false)
    others.withLock { $0.append(file) }
    return file.store
  }

  /// Gives all of them their names, the image last.
  func commit() throws(ImageError) {
    for file in others.withLock({ $0 }) { try file.commit() }
    try image.commit()
  }
}
