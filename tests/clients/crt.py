"""awscrt: the S3 client in C, into memory, into files, and below s3transfer's manager, as AWS's command line 2 has it."""

import botocore.session
from awscrt import __version__
from awscrt.auth import AwsCredentialsProvider
from awscrt.http import HttpHeaders, HttpRequest
from awscrt.io import ClientBootstrap, DefaultHostResolver, EventLoopGroup
from awscrt.s3 import S3Client, S3RequestTlsMode, S3RequestType, create_default_s3_signing_config
from s3transfer.crt import BotocoreCRTRequestSerializer, CRTTransferManager, create_s3_crt_client

from reading import *

SIGNING = provider = None
if ACCESS:
    provider = AwsCredentialsProvider.new_static(ACCESS["id"], ACCESS["secret"])
    SIGNING = create_default_s3_signing_config(region=REGION, credential_provider=provider)
TLS = S3RequestTlsMode.ENABLED if ENDPOINT.startswith("https:") else S3RequestTlsMode.DISABLED
group = EventLoopGroup(2)
client = S3Client(
    bootstrap=ClientBootstrap(group, DefaultHostResolver(group)), region=REGION, tls_mode=TLS, signing_config=SIGNING, part_size=8 << 20
)


def get(key, **options):
    request = HttpRequest("GET", path_of(key), HttpHeaders([("host", HOST)]))
    client.make_request(type=S3RequestType.GET_OBJECT, operation_name="GetObject", request=request, **options).finished_future.result(120)


version(__version__)
for key, size in OBJECTS:
    pieces = {}
    get(key, on_body=lambda chunk, offset, **_: pieces.update({offset: bytes(chunk)}))
    read("GET_OBJECT", key, [pieces[offset] for offset in sorted(pieces)])
    path = fresh("file")
    get(key, recv_filepath=str(path))
    read("recv_filepath", key, path)
# boto3 itself takes the runtime for AWS's own endpoints only.
serializer = BotocoreCRTRequestSerializer(botocore.session.Session(), {"region_name": REGION, "endpoint_url": ENDPOINT})
below = create_s3_crt_client(region=REGION, crt_credentials_provider=provider, use_ssl=ENDPOINT.startswith("https:"), verify=CA)
with CRTTransferManager(below, serializer) as manager:
    futures = [manager.download(BUCKET, key, str(fresh(f"file-{number}"))) for number, (key, _) in enumerate(OBJECTS)]
    for future in futures:
        future.result()
# A file has its name only once the manager is done with it, a little after its future is.
for number, (key, _) in enumerate(OBJECTS):
    read("CRTTransferManager", key, WORK / f"file-{number}")
