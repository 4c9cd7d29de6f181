import Platter
import PlatterCore
import PlatterVMDK
import SystemPackage
import TestSupport
import Testing

private func child(_ parentID: String, _ hint: String, more: String = "") -> [UInt8] {
  var builder = SparseBuilder()
  builder.descriptor =
    "# Disk DescriptorFile\nversion=1\nCID=00000009\nparentCID=\(parentID)\ncreateType=\"monolithicSparse\"\n"
    + "parentFileNameHint=\"\(hint)\"\nRW 8192 SPARSE \"child.vmdk\"\n\(more)\n"
  builder.grains = [1: .filled(2)]
  return builder.build()
}

private func parent(_ id: String, capacity: UInt64 = 8192, more: String = "") -> [UInt8] {
  var builder = SparseBuilder()
  builder.capacity = capacity
  builder.descriptor = SparseBuilder.descriptor("RW \(capacity) SPARSE \"p\"\n", contentID: id, more: more)
  builder.grains = [0: .filled(1), 1: .filled(1)]
  return builder.build()
}

@Suite("VMDK: delta links") struct DeltaTests {
  @Test("absent grains come from the parent, and beyond its end are zeros")
  func reading() throws {
    let folder = try ScratchDirectory()
    _ = try folder.write(parent("89193f1", capacity: 16), to: "base.vmdk")
    _ = try folder.write(child("089193f1", "base.vmdk"), to: "child.vmdk")
    let image = try DiskImage.open(folder["child.vmdk"])
    #expect(try image.read(4, at: 4094) == [1, 1, 2, 2])
    #expect(try image.read(1, at: 8192) == [0])
  }

  @Test("a parent that changed since is refused with both numbers, unless the caller says so")
  func changed() throws {
    let folder = try ScratchDirectory()
    _ = try folder.write(parent("0000abcd"), to: "base.vmdk")
    _ = try folder.write(child("0000abce", "base.vmdk"), to: "child.vmdk")
    let error = #expect(throws: ImageError.self) { try DiskImage.open(folder["child.vmdk"]) }
    #expect(error?.code == .corrupt)
    #expect(error?.message.hasSuffix("parentCID is 0000abce, and the parent's CID is 0000abcd") == true)
    var options = OpenOptions(format: "vmdk")
    options.node = [VMDK.ignoreParentChangesOption: "on"]
    #expect(throws: Never.self) { try DiskImage.open(folder["child.vmdk"], options) }
  }

  @Test("a parent of another format is refused")
  func otherFormat() throws {
    let image = try open(child("00000001", "base.raw"))
    final class Other: ImageMap {
      let formatName = "raw"
      let byteCount: UInt64 = 0
      let stores: [any ByteStore] = []
      func map(_ range: Range<UInt64>, limit: Int, into extents: inout [Extent]) throws(ImageError) -> UInt64 { 0 }
    }
    let error = #expect(throws: ImageError.self) { try image.accept(parent: Other()) }
    #expect(error?.message == "the parent is a raw image, and a VMDK can only have a VMDK parent")
  }

  static let longIDs: [(String, String, Bool)] = [("aa11", "AA11", true), ("aa11", "aa12", false)]

  @Test("with parentCID fffffffe the long content ids are compared", arguments: longIDs)
  func longContentID(own: String, theirs: String, isSame: Bool) throws {
    let image = try open(child("fffffffe", "base.vmdk", more: "ddb.longContentID = \"\(own)\""))
    let base = try open(parent("00000001", more: "ddb.longContentID = \"\(theirs)\""))
    do {
      try image.accept(parent: base)
      #expect(isSame)
    } catch {
      #expect(!isSame)
    }
  }

  @Test("parentCID ffffffff is no parent, whatever the hint says")
  func noParent() throws {
    #expect(try open(child("ffffffff", "base.vmdk")).backing == nil)
  }

  static let hints: [(String, [FilePath])] = [
    ("base.vmdk", ["base.vmdk"]), ("/vmfs/volumes/x/base.vmdk", ["/vmfs/volumes/x/base.vmdk", "base.vmdk"]),
    ("C:\\disks\\base.vmdk", ["C:\\disks\\base.vmdk", "C:/disks/base.vmdk", "base.vmdk"]),
  ]

  @Test("the parent is looked for as it is named, with \"/\" for \"\\\", and by its name alone", arguments: hints)
  func search(hint: String, names: [FilePath]) throws {
    let backing = try #require(try open(child("00000001", hint)).backing)
    #expect(backing.names == names)
    #expect(backing.displayName == hint)
    #expect(backing.formatName == "vmdk")
  }

  @Test("a child names its parent among its references")
  func references() throws {
    #expect(try open(child("00000001", "base.vmdk")).facts.references == ["base.vmdk"])
  }
}
