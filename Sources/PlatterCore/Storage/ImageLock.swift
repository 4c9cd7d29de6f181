import CPlatter
import SystemPackage

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// Locks on image files that QEMU's programs respect, and theirs respected.
///
/// Open-file-description read locks on single bytes: byte 100 + p says "I use permission p", byte 200 + p says "I do
/// not let others have p" (observed: qemu-img 7.2). The locks go with the file's descriptor.
package enum ImageLock {
  package struct Permissions: OptionSet, Sendable {
    package let rawValue: UInt8
    package init(rawValue: UInt8) { self.rawValue = rawValue }
    package static let consistentRead = Permissions(rawValue: 1)
    package static let write = Permissions(rawValue: 2)
    package static let writeUnchanged = Permissions(rawValue: 4)
    package static let resize = Permissions(rawValue: 8)

    fileprivate static let names = ["consistent read", "write", "write unchanged", "resize"]
  }

  /// How often a lock that stands against ours is looked at again, and how long to wait between. A process that this one
  /// is just starting holds a copy of every descriptor until it runs its program, and with them locks of files that were
  /// closed here meanwhile.
  private static let retryCount = 10
  private static let retryMicroseconds: UInt32 = 25_000

  /// Takes permissions and forbids others theirs.
  ///
  /// - Throws: `.busy` where somebody's lock stands against it. A file system without locks is no error.
  package static func acquire(_ store: FileStore, using: Permissions, forbidding: Permissions) throws(ImageError) {
    guard !store.isBlockDevice else { return }
    for bit in 0..<4 {
      if using.rawValue & (1 << bit) != 0 { guard take(store, 100 + Int64(bit)) else { return } }
      if forbidding.rawValue & (1 << bit) != 0 { guard take(store, 200 + Int64(bit)) else { return } }
    }
    var retriesLeft = retryCount
    while let obstacle = obstacle(store, using, forbidding) {
      guard retriesLeft > 0 else { throw busy(store, obstacle) }
      retriesLeft -= 1
      _ = usleep(retryMicroseconds)
    }
  }

  /// What stands against our lock; nil where nothing does.
  private static func obstacle(_ store: FileStore, _ using: Permissions, _ forbidding: Permissions) -> String? {
    for bit in 0..<4 {
      if using.rawValue & (1 << bit) != 0, platter_byte_is_locked(store.descriptor, 200 + Int64(bit)) == 1 {
        return "Failed to get \"\(Permissions.names[bit])\" lock"
      }
      if forbidding.rawValue & (1 << bit) != 0, platter_byte_is_locked(store.descriptor, 100 + Int64(bit)) == 1 {
        return "Failed to get shared \"\(Permissions.names[bit])\" lock"
      }
    }
    return nil
  }

  /// As qemu-img reads: others may read, nobody may write.
  package static func acquireForReading(_ store: FileStore) throws(ImageError) {
    try acquire(store, using: .consistentRead, forbidding: [.write, .resize])
  }

  /// As qemu-img writes: nobody else may write; reading is what the others' own locks refuse.
  package static func acquireForWriting(_ store: FileStore) throws(ImageError) {
    try acquire(store, using: [.consistentRead, .write, .resize], forbidding: [.write, .resize])
  }

  /// False where the file system has no locks.
  private static func take(_ store: FileStore, _ byte: Int64) -> Bool {
    platter_lock_byte(store.descriptor, byte, 0) == 0
  }

  private static func busy(_ store: FileStore, _ message: String) -> ImageError {
    ImageError(.busy, message, file: store.name, errno: .resourceTemporarilyUnavailable)
  }
}
