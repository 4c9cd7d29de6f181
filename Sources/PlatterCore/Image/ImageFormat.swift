import Synchronization
package import SystemPackage

/// A format as a whole: its name, how its files are known, how one is opened. One type per format target.
package protocol ImageFormat: Sendable {
  /// The name as `-f` takes it.
  static var name: String { get }
  /// How surely the file is of this format, from its content alone: 0 no, 100 its signature is there. Reads a bounded
  /// number of bytes and follows nothing.
  /// - Parameter head: the first bytes of the file, up to `ProbeHead.byteCount`.
  static func probe(_ head: RawSpan, _ store: any ByteStore) throws(ImageError) -> Int
  /// Opens an image: checks headers and top-level tables, follows references as the context allows. Reads no data.
  ///
  /// Cost: time and memory in proportion to the top-level tables, never to the virtual size.
  static func open(_ store: any ByteStore, _ context: OpenContext) throws(ImageError) -> any ImageMap
}

package enum ProbeHead {
  /// Bytes of a file's head that every probe gets (fewer in a shorter file).
  package static let byteCount = 4096
}

/// What the caller of an open allows and provides. The same for every format.
package struct OpenContext: Sendable {
  /// Where the image lies; nil when it is no file. Names inside the image are relative to its folder.
  package var path: FilePath?
  package var resolver: ReferenceResolver
  /// The image is about to be written.
  package var isWritable: Bool
  /// Driver options as `--image-opts` names them, without "driver" and "file…": `["data-file.filename": "x.data"]`.
  package var options: [String: String]
  /// The external data file, where the caller has it open already.
  package var dataFile: (any ByteStore)?
  /// The passphrase for an encrypted image, every byte as given; nil where the caller has none. Called at most once
  /// per open, and only where the image is encrypted.
  package var passphrase: (@Sendable () throws(ImageError) -> [UInt8]?)?
  /// Only facts are wanted (`info`, `inspect`): an encrypted image opens without a passphrase, a missing data file or
  /// extent is no error; `map` need not work.
  package var isForFactsOnly: Bool
  /// Data is going to be read or written. Where not, tables are opened as usual, and an encrypted image without its key.
  package var usesData = true
  /// Only a check is wanted, which judges by itself what opening would refuse, as far as it can; `map` need not work.
  package var isForCheck = false
  /// Takes a sentence for people about something odd that is no error.
  package var warn: @Sendable (String) -> Void

  /// Whether an encrypted image must be given its passphrase.
  package var needsKey: Bool { usesData && !isForFactsOnly }

  package init(
    path: FilePath? = nil, resolver: ReferenceResolver = ReferenceResolver(.none), isWritable: Bool = false,
    options: [String: String] = [:], passphrase: (@Sendable () throws(ImageError) -> [UInt8]?)? = nil,
    isForFactsOnly: Bool = false, warn: @escaping @Sendable (String) -> Void = { _ in }
  ) {
    self.path = path
    self.resolver = resolver
    self.isWritable = isWritable
    self.options = options
    self.passphrase = passphrase
    self.isForFactsOnly = isForFactsOnly
    self.warn = warn
  }
}

extension OpenContext {
  /// The same, for those who may need the passphrase more than once: its owner is asked once.
  package var askingOnce: OpenContext {
    guard let passphrase else { return self }
    let answer = Mutex<[UInt8]??>(nil)
    var context = self
    context.passphrase = { () throws(ImageError) in
      try answer.withLock { known throws(ImageError) in
        if let known { return known }
        let given = try passphrase()
        known = .some(given)
        return given
      }
    }
    return context
  }
}

/// What a check found; the counts are qemu-img's.
package struct CheckReport: Sendable {
  package var corruptions = 0
  package var leaks = 0
  package var corruptionsFixed = 0
  package var leaksFixed = 0
  /// Places that could not be checked.
  package var checkErrors = 0
  package var imageEndOffset: UInt64?
  package var totalClusters: UInt64?
  package var allocatedClusters: UInt64?
  package var fragmentedClusters: UInt64?
  package var compressedClusters: UInt64?
  /// A sentence for each finding, in the order found; cut at `maximumMessageCount`.
  package var messages: [String] = []
  package static let maximumMessageCount = 1000

  package init() {}

  package mutating func say(_ message: String) {
    if messages.count < Self.maximumMessageCount { messages.append(message) }
  }
}

/// A map whose format has something to check beyond what reading checks.
package protocol CheckableMap: ImageMap {
  /// Reads and compares everything that the format promises. Changes nothing.
  /// - Parameters:
  ///   - workers: threads that may work at once; at least 1.
  ///   - progress: told the share done, 0...1, now and then, from any thread; returns false to cancel.
  func check(workers: Int, progress: @escaping @Sendable (Double) -> Bool) throws(ImageError) -> CheckReport
}
