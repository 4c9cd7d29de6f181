import PlatterCore
package import SystemPackage

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// A new empty folder for one test, removed with all it holds when its owner goes.
///
/// Keep it in a constant of the suite or of the test; its paths do not keep it alive.
package final class ScratchDirectory: Sendable {
  package let path: FilePath

  /// - Parameter folder: where to make it; the system's folder for temporary files by default.
  package init(in folder: FilePath? = nil) throws {
    let base = folder ?? FilePath(environmentValue("TMPDIR") ?? "/tmp")
    var generator = SystemRandomNumberGenerator()
    while true {
      let name = "platter-test-" + String(generator.next(), radix: 36)
      let candidate = base.appending(name)
      let status = unsafe candidate.withPlatformString { unsafe mkdir($0, 0o700) }
      if status == 0 {
        path = candidate
        return
      }
      guard errno == EEXIST else { throw Errno(rawValue: errno) }
    }
  }

  deinit { removeTree(path) }

  /// The path of a file of this name in the folder.
  package func file(_ name: String) -> FilePath { path.appending(name) }

  /// The same as text, for command lines.
  package subscript(name: String) -> String { file(name).string }

  /// Makes a file with these bytes; folders in its name are made too.
  @discardableResult
  package func write(_ bytes: [UInt8], to name: String) throws -> FilePath {
    let target = file(name)
    let parent = FilePath(name).removingLastComponent()
    if !parent.isEmpty { try makeFolder(parent.string) }
    try writeFile(bytes, to: target)
    return target
  }

  /// Makes a folder, and those above it.
  @discardableResult
  package func makeFolder(_ name: String) throws -> FilePath {
    var folder = path
    for component in FilePath(name).components {
      folder.append(component)
      let status = unsafe folder.withPlatformString { unsafe mkdir($0, 0o700) }
      guard status == 0 || errno == EEXIST else { throw Errno(rawValue: errno) }
    }
    return folder
  }

  package func read(_ name: String) throws -> [UInt8] { try readFile(file(name)) }
}

/// All bytes of a file.
package func readFile(_ path: FilePath) throws -> [UInt8] {
  let store = try FileStore(path)
  return try store.readFully("the file", at: 0, count: Int(try store.byteCount()))
}

/// Makes or replaces a file.
package func writeFile(_ bytes: [UInt8], to path: FilePath) throws {
  var options = FileStore.Options(isWritable: true)
  options.creates = true
  options.truncates = true
  try FileStore(path, options).write(bytes.rawBytes, at: 0)
}

/// Names in a folder, sorted, without "." and "..".
package func namesInFolder(_ path: FilePath) -> [String] {
  guard let folder = unsafe path.withPlatformString({ unsafe opendir($0) }) else { return [] }
  defer { unsafe closedir(folder) }
  var names: [String] = []
  while let entry = unsafe readdir(folder) {
    let name = unsafe withUnsafeBytes(of: entry.pointee.d_name) { bytes in
      unsafe String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
    }
    if name != ".", name != ".." { names.append(name) }
  }
  return names.sorted()
}

package func isFolder(_ path: FilePath) -> Bool {
  var status = stat()
  return unsafe path.withPlatformString { unsafe lstat($0, &status) } == 0 && status.st_mode & S_IFMT == S_IFDIR
}

/// The value of an environment variable.
package func environmentValue(_ name: String) -> String? {
  guard let value = unsafe getenv(name) else { return nil }
  return unsafe String(cString: value)
}

private func removeTree(_ path: FilePath) {
  if isFolder(path) {
    for name in namesInFolder(path) { removeTree(path.appending(name)) }
    _ = unsafe path.withPlatformString { unsafe rmdir($0) }
  } else {
    _ = unsafe path.withPlatformString { unsafe unlink($0) }
  }
}
