package import PlatterCore
package import SystemPackage

/// A virtual disk: an image and the chain of images under it, opened for reading.
///
/// ```swift
/// let disk = try DiskImage.open("cloud.qcow2")
/// print(disk.formatName, disk.byteCount)
/// let firstSector = try disk.read(512, at: 0)
/// ```
///
/// Safe to use from many threads at once; every call blocks until it is done. The files are closed when the last reference
/// goes.
public final class DiskImage: Sendable {
  /// One image of the chain.
  package struct Layer: Sendable {
    /// The file's name as the user or the image above gave it.
    package var name: String
    package var path: FilePath?
    package var map: any ImageMap
    /// Nobody named the format: it was found from the content.
    package var wasProbed: Bool

    package init(name: String, path: FilePath? = nil, map: any ImageMap, wasProbed: Bool = false) {
      self.name = name
      self.path = path
      self.map = map
      self.wasProbed = wasProbed
    }
  }

  /// Most images in a chain.
  package static let maximumChainLength = 200

  /// The chain, top first; never empty.
  package let layers: [Layer]
  /// Decoded units of packed extents, shared by all readers.
  let units = UnitCache(byteLimit: UnitCache.defaultByteLimit)
  let spools = SpoolCache()
  let scratches = ScratchPool()

  /// What happens where something cannot be read; nil throws.
  let salvage: Salvage?

  package init(layers: [Layer], salvage: Salvage? = nil) {
    precondition(!layers.isEmpty)
    self.layers = layers
    self.salvage = salvage
  }

  /// The same disk, which reads as zeros where it cannot be read.
  package func salvaging(_ salvage: Salvage) -> DiskImage { DiskImage(layers: layers, salvage: salvage) }

  /// What is under the top image, as a disk; nil where that is nothing.
  var belowTop: DiskImage? { layers.count > 1 ? DiskImage(layers: Array(layers.dropFirst())) : nil }

  /// Bytes of the virtual disk.
  public var byteCount: UInt64 { layers[0].map.byteCount }

  /// The format's name: "qcow2", "vmdk", "raw", ….
  public var formatName: String { layers[0].map.formatName }

  /// The image as the user named it.
  public var name: String { layers[0].name }
}
