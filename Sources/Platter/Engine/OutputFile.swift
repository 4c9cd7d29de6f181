import CPlatter
import PlatterCore
import SystemPackage

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// An output file that appears whole or not at all.
///
/// It is written under a name of its own beside the target and takes the target's name when it is complete. Where the folder
/// allows no new name, or the target is a device, the target is written in place.
final class OutputFile {
  let store: FileStore
  private let target: FilePath
  private var temporary: FilePath?
  /// Keeps others from writing the present target while the new one is made.
  private let present: FileStore?

  /// - Throws: `.busy` where the present target is in use; `.io`.
  init(_ path: FilePath, _ options: FileStore.Options, sharing: Bool) throws(ImageError) {
    // A link is followed: what it points to is replaced, not the link.
    let target = RealPath.resolve(path) ?? path
    self.target = target
    let isThere = Self.exists(target)
    if isThere {
      let present = try FileStore(target, FileStore.Options(isWritable: true))
      if !sharing { try ImageLock.acquireForWriting(present) }
      guard !present.isBlockDevice else {
        self.present = nil
        store = present
        return
      }
      self.present = present
    } else {
      present = nil
    }
    var creation = options
    creation.creates = true
    creation.isExclusive = true
    creation.mode = present.map(\.permissions) ?? 0o644
    for _ in 0..<16 {
      var bits: UInt32 = 0
      guard unsafe platter_random(&bits, 4) == 0 else { break }
      let name = target.folder.appending(".\(target.lastComponent?.string ?? "image").\(String(bits, radix: 36))")
      do throws(ImageError) {
        store = try FileStore(name, creation, shownAs: path.string)
        temporary = name
        return
      } catch {
        if error.errno == .fileExists { continue }
        // No new name may be made here, but the file that is there may still be written.
        guard isThere, [.permissionDenied, .notPermitted, .readOnlyFileSystem].contains(error.errno) else {
          throw error
        }
        break
      }
    }
    var inPlace = options
    inPlace.creates = true
    inPlace.truncates = true
    store = try FileStore(target, inPlace)
  }

  private static func exists(_ path: FilePath) -> Bool {
    unsafe path.withPlatformString { unsafe access($0, F_OK) } == 0
  }

  /// Gives the file its name.
  func commit() throws(ImageError) {
    guard let from = temporary else { return }
    let status = unsafe from.withPlatformString { from in
      unsafe target.withPlatformString { to in unsafe rename(from, to) }
    }
    guard status == 0 else {
      throw ImageError.io("cannot take its name", Errno(rawValue: errno), file: target.string)
    }
    temporary = nil
  }

  deinit {
    guard let temporary else { return }
    _ = unsafe temporary.withPlatformString { unsafe unlink($0) }
  }
}
