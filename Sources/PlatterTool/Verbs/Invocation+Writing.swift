package import Platter
import PlatterCore

extension Invocation {
  /// An image that others may have open is not written.
  package func refuseSharedWriting(_ source: ImageSource) throws(Failure) {
    guard options.has("force-share") else { return }
    throw Failure("Could not open '\(source.written)': force-share=on can only be used with read-only images")
  }

  /// Opens an image that is going to be changed.
  /// - Throws: where it cannot be opened for writing, or its format cannot be written.
  package func openForWriting(
    _ source: ImageSource, _ openOptions: OpenOptions, cache: OpenOptions.CacheMode = .writeback
  ) throws(Failure) -> DiskWriter {
    try refuseSharedWriting(source)
    var openOptions = openOptions
    openOptions.isWritable = true
    openOptions.cache = cache
    let image = try open(source, openOptions)
    if image.formatName == "raw", image.layers[0].wasProbed { warnOfProbedRaw(source.written) }
    do throws(ImageError) {
      return try DiskWriter(image, cache: cache)
    } catch {
      throw Failure(error)
    }
  }

  /// Words for a change that the image's own state forbids.
  package func refusal(_ error: ImageError) -> Failure {
    guard error.message.hasPrefix("Bitmap '"), error.message.hasSuffix("is inconsistent and cannot be used") else {
      return Failure(error)
    }
    return program.isDropIn
      ? Failure(error.message, hint: "Try block-dirty-bitmap-remove to delete this bitmap from disk")
      : Failure(error, hint: "It was not saved when the image was used last; bitmap --remove deletes it.")
  }

  /// The lines that QEMU's programs print: a guest could have written the signature that a later probe finds.
  private func warnOfProbedRaw(_ name: String) {
    messages.line("WARNING: Image format was not specified for '\(name)' and probing guessed raw.")
    messages.line(
      "         Automatically detecting the format is dangerous for raw images, write operations on block 0 will be "
        + "restricted.")
    messages.line("         Specify the 'raw' format explicitly to remove the restrictions.")
  }

  /// Runs `body` and closes the writer, whether or not it went well.
  package func closing<R>(_ writer: DiskWriter, _ body: (DiskWriter) throws(Failure) -> R) throws(Failure) -> R {
    let result: R
    do throws(Failure) {
      result = try body(writer)
    } catch {
      // What went wrong first is what is told.
      try? writer.close()
      throw error
    }
    do throws(ImageError) {
      try writer.close()
    } catch {
      throw Failure(error)
    }
    return result
  }
}
