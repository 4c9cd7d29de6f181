import PlatterCore
import SystemPackage
import TestSupport

/// A file that takes what the program would print.
struct Capture {
  private let folder: ScratchDirectory
  private let store: FileStore

  init() throws {
    folder = try ScratchDirectory()
    var options = FileStore.Options(isWritable: true)
    options.creates = true
    store = try FileStore(folder.file("output"), options)
  }

  var descriptor: Int32 { store.descriptor }

  func bytes() throws -> [UInt8] { try store.readPrefix(count: 1 << 20) }
}
