package import SystemPackage

/// A format of which new images can be made.
package protocol CreatableFormat: ImageFormat {
  /// The options that `-o` takes, in the order in which `-o help` lists them.
  static var creationOptions: [CreationOption] { get }

  /// Writes an empty image into an empty store. Everything is checked before the first write.
  /// - Throws: `.invalidArgument` for an option's value or a combination that makes no sense, in one sentence.
  static func create(in store: any ByteStore, _ request: CreationRequest) throws(ImageError)

  /// Bytes that an image file takes for a disk with `dataByteCount` bytes of data, and when all of it is allocated.
  static func measure(_ request: CreationRequest, dataByteCount: UInt64) throws(ImageError) -> ImageMeasurement
}

/// One option of `-o`.
package struct CreationOption: Sendable {
  package enum Kind: Sendable { case size, flag, number, text }
  package var name: String
  package var kind: Kind
  package var help: String

  package init(_ name: String, _ kind: Kind, _ help: String) {
    self.name = name
    self.kind = kind
    self.help = help
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
