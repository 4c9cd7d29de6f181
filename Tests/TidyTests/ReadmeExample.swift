import Platter
import PlatterCore
import SystemPackage
import TestSupport
import Testing

// README: from here
/// Whether a cloud image has a boot sector.
func hasBootSector(_ path: String) throws -> Bool {
  // The format is named, not guessed: a guest can write any signature into its disk.
  // Files that the image names, as its backing file, are opened where they lie beside it.
  let disk = try DiskImage.open(path, OpenOptions(format: "qcow2", references: .siblings))
  print(disk.formatName, disk.byteCount)
  let sector = try disk.read(512, at: 0)
  return sector[510] == 0x55 && sector[511] == 0xaa
}
// to here

@Suite("The README's example")
struct ReadmeExampleTests {
  @Test("it runs on a real image", arguments: [("real-dfvfs-ext2", false), ("real-plaso-vsstest", true)])
  func runs(folder: String, isBootable: Bool) throws {
    let scratch = try ScratchDirectory()
    let source = sourceTree().appending("Tests/Corpus/\(folder)/disk.qcow2.xz")
    let unpacked = try run("xz", ["-dc", source.string])
    let image = try scratch.write(unpacked.output, to: "disk.qcow2")
    #expect(try hasBootSector(image.string) == isBootable)
  }
}
