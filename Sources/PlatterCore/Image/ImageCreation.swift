package import SystemPackage

/// A format of which new images can be made.
package protocol CreatableFormat: ImageFormat {
  /// The options that `-o` takes, in the order in which the line about a new image shows them.
  static var creationOptions: [CreationOption] { get }

  /// Writes an empty image into an empty store. Everything is checked before the first write.
  /// - Throws: `.invalidArgument` for an option's value or a combination that makes no sense, in one sentence.
  static func create(in store: any ByteStore, _ request: CreationRequest) throws(ImageError)

  /// Bytes that an image file takes for a disk with `dataByteCount` bytes of data, and when all of it is allocated.
  /// - Parameter dataByteCount: counted in whole `measuringUnit`s.
  static func measure(_ request: CreationRequest, dataByteCount: UInt64) throws(ImageError) -> ImageMeasurement

  /// Guest bytes that take space together.
  static func measuringUnit(_ request: CreationRequest) throws(ImageError) -> UInt64
}

/// One option of `-o`.
package struct CreationOption: Sendable {
  package enum Kind: Sendable { case size, flag, number, text }
  package var name: String
  package var kind: Kind
  package var help: String
  /// The value that is shown where none is given; nil where the option is then not shown.
  package var shownDefault: String?
  /// A hint for the file system that holds the image: accepted, and of no effect on the image.
  package var isForFileSystem: Bool
  /// Not an option of QEMU's programs.
  package var isOwn: Bool

  package init(
    _ name: String, _ kind: Kind, _ help: String, shownDefault: String? = nil, isForFileSystem: Bool = false,
    isOwn: Bool = false
  ) {
    self.name = name
    self.kind = kind
    self.help = help
    self.shownDefault = shownDefault
    self.isForFileSystem = isForFileSystem
    self.isOwn = isOwn
  }
}

/// What a new image should be.
package struct CreationRequest: Sendable {
  /// Where the image will lie; nil for memory.
  package var path: FilePath?
  /// Guest bytes.
  package var byteCount: UInt64
  /// Options as given, names that the format lists; the backing file's name and format are among them.
  package var options: [String: String]
  /// Guest bytes of the backing image, where there is one and it was opened.
  package var backingByteCount: UInt64?
  /// Gives the secret object with this id.
  package var secret: @Sendable (String) throws(ImageError) -> [UInt8]?
  /// Makes another empty file of the image (data file, extent): the name is as it will stand in the image.
  package var makeFile: @Sendable (FilePath) throws(ImageError) -> any ByteStore

  package init(byteCount: UInt64, options: [String: String] = [:], path: FilePath? = nil) {
    self.byteCount = byteCount
    self.options = options
    self.path = path
    secret = { _ in nil }
    makeFile = { name throws(ImageError) in
      throw ImageError(.unsupported, "no further file \"\(name.printable)\" can be made here")
    }
  }
}

/// The size of an image file before it is made.
package struct ImageMeasurement: Sendable, Equatable {
  /// Bytes for the data that there is.
  package var required: UInt64
  /// Bytes when every guest byte has its place.
  package var fullyAllocated: UInt64
  /// Bytes for the source's persistent bitmaps, where there are any.
  package var bitmaps: UInt64?

  package init(required: UInt64, fullyAllocated: UInt64, bitmaps: UInt64? = nil) {
    self.required = required
    self.fullyAllocated = fullyAllocated
    self.bitmaps = bitmaps
  }
}
