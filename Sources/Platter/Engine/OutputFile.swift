import CPlatter
import PlatterCore
import Synchronization
import SystemPackage

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// An output file that appears whole or not at all.
///
/// Until it is complete it has no name, so nothing is left of it where the process is killed. Where the file system knows
/// no files without names it is written under a name of its own beside the target; where the folder allows no new name, or
/// the target is a device, the target is written in place.
final class OutputFile: Sendable {
  private enum Place: Sendable {
    case nameless
    case beside(FilePath)
    /// The target itself, or what has taken its name.
    case target
  }

  let store: FileStore
  private let target: FilePath
  private let place: Mutex<Place>
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
        place = Mutex(.target)
        return
      }
      self.present = present
    } else {
      present = nil
    }
    var creation = options
    creation.mode = present.map(\.permissions) ?? 0o644
    if let nameless = Self.nameless(in: target.folder, creation, shownAs: path.string) {
      store = nameless
      place = Mutex(.nameless)
      return
    }
    creation.creates = true
    creation.isExclusive = true
    for _ in 0..<Self.maximumNameCount {
      let name = Self.name(beside: target)
      do throws(ImageError) {
        store = try FileStore(name, creation, shownAs: path.string)
        place = Mutex(.beside(name))
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
    place = Mutex(.target)
  }

  deinit {
    guard case .beside(let name) = place.withLock({ $0 }) else { return }
    _ = unsafe name.withPlatformString { unsafe unlink($0) }
  }

  private static func exists(_ path: FilePath) -> Bool {
    unsafe path.withPlatformString { unsafe access($0, F_OK) } == 0
  }

  /// Nil where the system or the file system has no such files.
  private static func nameless(in folder: FilePath, _ options: FileStore.Options, shownAs name: String) -> FileStore? {
    var options = options
    options.isNameless = true
    guard let store = try? FileStore(folder, options, shownAs: name), store.canBeNamed else { return nil }
    return store
  }

  /// Names that are tried.
  private static let maximumNameCount = 16

  private static func name(beside target: FilePath) -> FilePath {
    let bits = UInt32.random(in: 0...UInt32.max)
    return target.folder.appending(".\(target.lastComponent?.string ?? "image").\(String(bits, radix: 36))")
  }

  // MARK: The name

  /// Gives the file its name.
  func commit() throws(ImageError) {
    try place.withLock { place throws(ImageError) in
      if case .nameless = place { place = try named() }
      guard case .beside(let name) = place else { return }
      let status = unsafe name.withPlatformString { from in
        unsafe target.withPlatformString { to in unsafe rename(from, to) }
      }
      guard status == 0 else {
        throw ImageError.io("cannot take its name", Errno(rawValue: errno), file: target.string)
      }
      place = .target
    }
  }

  /// A name for a file without one: the target's, or one beside it where that is there already and must be replaced.
  private func named() throws(ImageError) -> Place {
    var refusal: ImageError
    do throws(ImageError) {
      try store.giveName(target)
      return .target
    } catch { refusal = error }
    for _ in 0..<Self.maximumNameCount where refusal.errno == .fileExists {
      let name = Self.name(beside: target)
      do throws(ImageError) {
        try store.giveName(name)
        return .beside(name)
      } catch { refusal = error }
    }
    throw refusal
  }
}
