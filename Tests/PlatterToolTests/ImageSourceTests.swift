import PlatterTool
import SystemPackage
import Testing

@Suite("Names of images")
struct ImageSourceTests {
  @Test(
    "a plain path and file: are a path",
    arguments: [
      ("disk.img", "disk.img"), ("file:disk.img", "disk.img"), ("./a:b", "./a:b"), ("a/b:c", "a/b:c"),
    ])
  func paths(text: String, path: String) throws {
    let source = try ImageSource(Argument(text), isOptionList: false)
    #expect(source.path == FilePath(path))
    #expect(source.fileName == path)
  }

  @Test(
    "protocols that are not there are refused with a clear word",
    arguments: [
      ("nbd:localhost:10809", "the protocol 'nbd' is not supported"), ("foo:bar", "Unknown protocol 'foo'"),
      ("http://example.org/x", "the protocol 'http' is not supported"),
    ])
  func protocols(text: String, sentence: String) {
    let failure = #expect(throws: Failure.self) { try ImageSource(Argument(text), isOptionList: false) }
    #expect(failure?.sentences == ["Could not open '\(text)': \(sentence)"])
  }

  @Test("json: and --image-opts describe the same node")
  func nodes() throws {
    let json = try ImageSource(
      Argument(#"json:{"driver":"qcow2","file":{"filename":"a,b"}}"#), isOptionList: false)
    let list = try ImageSource(Argument("driver=qcow2,file.filename=a,,b"), isOptionList: true)
    #expect(json.place == list.place)
    #expect(json.fileName == "a,b")
  }

  @Test("options that change the image show in its name, in QEMU's order")
  func tellingOptions() throws {
    let source = try ImageSource(
      Argument("driver=raw,file.filename=r.raw,offset=1M,size=2M"), isOptionList: true)
    #expect(
      source.fileName
        == #"json:{"offset": "1M", "driver": "raw", "size": "2M", "file": {"driver": "file", "filename": "r.raw"}}"#)
  }

  @Test("a node needs a driver or a file", arguments: ["foo=bar", "", "filename=x"])
  func incompleteNodes(text: String) {
    let failure = #expect(throws: Failure.self) { try ImageSource(Argument(text), isOptionList: true) }
    #expect(failure?.sentences == ["Could not open '\(text)': Must specify either driver or file"])
  }

  @Test("members stand in the order of qemu-img's output")
  func memberOrder() {
    let names = [
      "snapshots", "virtual-size", "filename", "cluster-size", "format", "actual-size", "format-specific",
      "full-backing-filename", "encrypted", "backing-filename", "dirty-flag",
    ]
    #expect(names.sorted { QEMUOrder.key($0) < QEMUOrder.key($1) } == names)
  }

  @Test(
    "a snapshot is named by itself or by its fields",
    arguments: [
      ("one", "one"), ("snapshot.name=one", "one"), ("snapshot.id=1", "1"),
    ])
  func snapshots(text: String, name: String) throws {
    #expect(try SnapshotParameter.name(text) == name)
  }
}

@Suite("Secrets")
struct SecretTests {
  @Test(
    "a secret comes as text, base64 or JSON",
    arguments: [
      "secret,id=s,data=pass", "secret,id=s,data=cGFzcw==,format=base64", "qom-type=secret,id=s,data=pass",
      #"{"qom-type":"secret","id":"s","data":"pass"}"#,
    ])
  func forms(object: String) throws {
    #expect(try SecretTable(objects: [object])["s"] == Array("pass".utf8))
  }

  @Test(
    "what is wrong is said without the secret",
    arguments: [
      ("secret,data=hush", "Parameter 'id' is missing"),
      ("foo,id=a", "Parameter 'qom-type' does not accept value 'foo'"),
      ("secret,id=a,data=hush,file=b", "'file' and 'data' are mutually exclusive"),
      ("secret,id=a", "Either 'file' or 'data' must be provided"),
      ("secret,id=a,format=base64,data=@hush@", "Base64 data contains invalid characters"),
      ("secret,id=a,format=hex,data=hush", "Parameter 'format' does not accept value 'hex'"),
    ])
  func problems(object: String, sentence: String) {
    let failure = #expect(throws: Failure.self) { try SecretTable(objects: [object]) }
    #expect(failure?.sentences == [sentence])
  }

  @Test(
    "base64 as RFC 4648 has it",
    arguments: [
      ("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9v\nYmFy", "foobar"),
    ])
  func base64(text: String, decoded: String) {
    #expect(Base64.decode(Array(text.utf8)) == Array(decoded.utf8))
  }

  @Test("base64 that is cut or odd is refused", arguments: ["Z", "Zg", "Zg=", "Zg===", "Z=g=", "Zm9v!"])
  func badBase64(text: String) {
    #expect(Base64.decode(Array(text.utf8)) == nil)
  }
}
