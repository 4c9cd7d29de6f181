package import PlatterCore
import PlatterCrypto

/// A LUKS volume as an image of its own: what `cryptsetup luksFormat` makes on a device, or qemu-img in a file.
///
///     0                header (592 bytes): cipher, hash, payload offset, eight key slots
///     per key slot     key material: the volume key in 4000 stripes, encrypted under a passphrase
///     payload offset   the guest's disk, every 512-byte sector encrypted by its number from here
///
/// Invariants: the payload lies inside the file; the disk is what follows the payload offset, in whole sectors, as the
/// file's length was at opening or at the last resizing. There is one run of data: a hole of the file decrypts to noise,
/// not to zeros, and so does what was never written.
///
/// Writing: every sector has its place, so guest bytes change where they are. Key slots change in the order that
/// `LUKSHeader+Slots.swift` states; a new volume's header is written last, so before that there is no volume.
package enum LUKS: ImageFormat {
  package static let name = "luks"

  package static func probe(_ head: RawSpan, _ store: any ByteStore) throws(ImageError) -> Int {
    // Any version: version 2 is ours to refuse by name, rather than to show its ciphertext as a raw disk.
    if case .version = LUKSHeader.recognise(head) { 100 } else { 0 }
  }

  package static func open(_ store: any ByteStore, _ context: OpenContext) throws(ImageError) -> any ImageMap {
    try naming(store.name) { () throws(ImageError) in try LUKSMap(store, context) }
  }
}
