package import SystemPackage

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// Where files really lie, all links followed.
package enum RealPath {
  /// The real path of an open file: asked of the kernel by descriptor where it can tell.
  static func of(_ store: FileStore) -> FilePath? {
    #if os(Linux)
      return resolve(FilePath("/proc/self/fd/\(store.descriptor)"))
    #else
      return resolve(store.path)
    #endif
  }

  static func of(folder: FilePath) -> FilePath? { resolve(folder) }

  /// The real path of a name; nil where it leads nowhere.
  package static func resolve(_ path: FilePath) -> FilePath? {
    unsafe path.withPlatformString { name in
      guard let real = unsafe realpath(name, nil) else { return nil }
      defer { unsafe free(real) }
      return unsafe FilePath(platformString: real)
    }
  }
}
