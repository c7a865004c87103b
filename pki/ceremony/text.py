"""What a ceremony says, in English and Chinese.

English texts stand where they are used; their Chinese is here. A test holds the two together.
"""

from __future__ import annotations

import hashlib
from typing import Final

LANGUAGES: Final = ("en", "zh")


def name_of_fact(language: str, name: str) -> str:
    """What the machine says of itself, named; as it is if there is no name for it."""
    return say(language, f"fact:{name}") if f"fact:{name}" in ENGLISH else name


def say(language: str, text: str, **values: object) -> str:
    """A text in ``language``, its places filled with ``values``."""
    template = CHINESE[text] if language == "zh" else ENGLISH.get(text, text)
    return template.format(**values) if values else template


ENGLISH: Final = {
    "act:attend": "those present register",
    "act:check": "seen to by people",
    "act:inspect": "the machine describes itself",
    "act:share-secret": "the shared secret",
    "act:initialise-token": "the token is initialised",
    "act:change-pin": "the token's PINs are changed",
    "act:make-key": "a key pair is made",
    "act:restore-key": "a key is restored",
    "act:destroy-key": "a key is destroyed",
    "act:receive": "a file comes in",
    "act:certify": "a certificate is signed",
    "act:sign-crl": "a revocation list is signed",
    "act:hand-over": "files go out",
    "act:close": "everybody signs the whole",
    "role:administrator": "Administrator",
    "role:custodian": "Custodian",
    "role:witness": "Witness",
    "role:auditor": "Auditor",
    "way:one-time": "one-time",
    "way:card": "card",
    "fact:software": "software",
    "fact:package": "installed package",
    "fact:python": "Python",
    "fact:system": "system",
    "fact:time": "time",
    "fact:time source": "time source",
    "fact:token label": "token",
    "fact:token module": "token module",
    "fact:token serial": "token serial",
    "fact:token manufacturer": "token maker",
    "fact:token model": "token model",
    "fact:token firmware": "token firmware",
    "fact:token hardware": "token hardware",
    "about:comment": "Comment",
    "about:deviation": "Deviation",
    "about:refusal": "Refusal",
}
"""For keys that are no text."""

CHINESE: Final = {
    "act:attend": "到场人员登记",
    "act:check": "由人员核查",
    "act:inspect": "机器自述",
    "act:share-secret": "共享秘密",
    "act:initialise-token": "初始化令牌",
    "act:change-pin": "更改令牌 PIN",
    "act:make-key": "生成密钥对",
    "act:restore-key": "恢复密钥",
    "act:destroy-key": "销毁密钥",
    "act:receive": "接收文件",
    "act:certify": "签发证书",
    "act:sign-crl": "签发吊销列表",
    "act:hand-over": "交付文件",
    "act:close": "全体签署",
    "role:administrator": "管理员",
    "role:custodian": "保管人",
    "role:witness": "见证人",
    "role:auditor": "审计员",
    "way:one-time": "一次性",
    "way:card": "智能卡",
    "fact:software": "软件",
    "fact:package": "已安装的软件包",
    "fact:python": "Python",
    "fact:system": "操作系统",
    "fact:time": "时间",
    "fact:time source": "时间来源",
    "fact:token label": "令牌",
    "fact:token module": "令牌模块",
    "fact:token serial": "令牌序列号",
    "fact:token manufacturer": "令牌制造商",
    "fact:token model": "令牌型号",
    "fact:token firmware": "令牌固件",
    "fact:token hardware": "令牌硬件",
    "about:comment": "意见",
    "about:deviation": "偏差",
    "about:refusal": "拒绝",
    "Key ceremony": "密钥仪式",
    "Report of a key ceremony": "密钥仪式报告",
    "Participants": "参与人员",
    "Certificates and revocation lists": "证书与吊销列表",
    "Steps": "步骤",
    "Signatures": "签名页",
    "By hand, on the printed report: that it tells what happened.": "在打印的报告上亲笔签名，"
    "确认其如实记述了所发生的事情。",
    "from": "开始",
    "to": "结束",
    "The transcript was verified: it is whole and unaltered.": "记录已核验：完整且未被改动。",
    "The transcript does NOT verify.": "记录未通过核验！",
    "Head of the transcript": "记录的末端哈希",
    "role": "角色",
    "name": "姓名",
    "date": "日期",
    "signature": "签名",
    "The ceremony was paused.": "仪式暂停。",
    "The ceremony went on.": "仪式继续。",
    "Comments, deviations, interruptions": "意见、偏差与中断",
    "None.": "无。",
    "Not done.": "未执行。",
    "confirmed by": "确认人",
    "done": "完成",
    "opened by the shares of": "由以下份额开启",
    "The ceremony is closed.": "仪式已结束。",
    "Paused. To go on: {command}": "已暂停。继续请执行：{command}",
    "-- Enter for more --": "-- 按回车键继续 --",
    "Please type one of: {answers}": "请输入以下之一：{answers}",
    "(This key does nothing here. To stop, type pause at a question.)": "（此键在这里不起作用。"
    "如需停止，请在提问处输入 pause。）",
    "SHA-256": "SHA-256",
    "in words": "用单词读出",
    "Everybody present registers, in this order, by name.": "所有到场人员按此顺序以姓名登记。",
    "everybody": "全体人员",
    "participants": "参与人员",
    "token": "令牌",
    "URLs": "网址",
    "STEP": "步骤",
    "WHAT": "内容",
    "OBJECT": "对象",
    "CONFIRMED BY": "确认人",
    "places": "席位",
    "Each gets a key that signs what they confirm: a one-time key under a passphrase of their own, "
    "destroyed at the end, or the key of their card.": "每人获得一把用于签署其确认内容的密钥："
    "由本人口令保护、结束时销毁的一次性密钥，或其智能卡中的密钥。",
    "The people named confirm that they have seen to this.": "所列人员确认已亲自核查此事。",
    "This is what the machine says of itself.": "以下是机器对自身的描述。",
    "Compare the time with a clock, and the hash with the release notes.": "请将时间与钟表核对，"
    "将哈希值与发布说明核对。",
    "installed package": "已安装的软件包",
    "THE CLOCK WAS SET BACK: a revocation list was signed at {at}. If it is wrong now, stop with "
    "pause and set it right. Note a deviation.": "时钟被调慢：曾有吊销列表于 {at} 签发。若现在的"
    "时钟不准，请输入 pause 停下并校正。请记录偏差。",
    "These files are copied to a medium that is otherwise empty.": "以下文件将复制到一个没有其他"
    "内容的介质上。",
    "Whoever receives them compares each fingerprint aloud.": "接收者须逐一朗读并核对每个指纹。",
    "file": "文件",
    "Folder of the medium that takes the files:": "接收文件的介质所在文件夹：",
    "Everybody signs the transcript as a whole: all that stands before.": "全体人员签署整份记录，"
    "即此前的全部内容。",
    "Afterwards the one-time keys are destroyed.": "随后销毁一次性密钥。",
    "Registration: {place}": "登记：{place}",
    "Name, as it is to be printed:": "姓名（按打印所用写法）：",
    "A name has 2 to 79 letters.": "姓名须有 2 至 79 个字。",
    "Somebody of this name is registered already.": "已有同名人员登记。",
    "Key: type one-time, or the pkcs11: URI of your card's key:": "密钥：输入 one-time，或您卡中"
    "密钥的 pkcs11: URI：",
    "PIN of the card:": "卡的 PIN：",
    "New passphrase, {least} characters or more (not shown):": "新口令，至少 {least} 个字符"
    "（不显示）：",
    "The same again:": "再输入一次：",
    "The two were not the same; once more.": "两次输入不一致，请重来。",
    "The secret of token {label} stays; its shares are made anew. Old and new shares do not go "
    "together.": "令牌 {label} 的秘密不变，重新生成其份额。新旧份额不能混用。",
    "A new random secret for token {label} is drawn and split into shares.": "为令牌 {label} "
    "生成新的随机秘密，并将其拆分为份额。",
    "Any {threshold} of {count} shares rebuild it; fewer say nothing about it.": "{count} 个份额中"
    "的任意 {threshold} 个可以重建秘密；少于此数则不透露任何信息。",
    "custodians": "保管人",
    "Each custodian seals one share by a passphrase, to a public key (age1…) or to the RSA key of "
    "a card (its pkcs11: URI), and takes the file away on a medium of their own.": "每位保管人用"
    "口令、公钥（age1…）或智能卡中的 RSA 密钥（其 pkcs11: URI）封存一个份额，"
    "并用自己的介质带走该文件。",
    "Token {label} is initialised. Its user PIN and its security officer's PIN are derived from "
    "the shared secret; nobody ever sees them.": "初始化令牌 {label}。其用户 PIN 与安全官 PIN "
    "由共享秘密派生，任何人都看不到。",
    "secret of": "所用秘密",
    "kind": "种类",
    "The PINs of token {label} are changed to those of the new secret. The shares of the old one "
    "open nothing afterwards.": "令牌 {label} 的 PIN 改为由新秘密派生。此后旧秘密的份额不再有用。",
    "The private key is wrapped once, under a key from the shared secret (AES-256, RFC 5649); from "
    "then on the token does not let it be read out or wrapped.": "私钥用共享秘密派生的密钥包裹一次"
    "（AES-256，RFC 5649）；此后令牌不再允许读出或包裹它。",
    "The private key can never be read out of the token; there is no backup of it.": "私钥永远不能"
    "从令牌中读出，也没有备份。",
    "A key pair is made on token {label}.": "在令牌 {label} 上生成密钥对。",
    "key": "密钥",
    "type": "类型",
    "A key is restored from its backup onto token {label}.": "将密钥从备份恢复到令牌 {label}。",
    "SHA-256 of the backup": "备份的 SHA-256",
    "The private key {key} is destroyed on token {label}. This cannot be undone.": "销毁令牌 "
    "{label} 上的私钥 {key}。此操作无法撤销。",
    "backups": "备份",
    "are destroyed by people, in another step": "由人员在另一步骤中销毁",
    "Share {place} for {name}.": "第 {place} 个份额，交给 {name}。",
    "{name}: type passphrase, or give age1… or pkcs11:…:": "{name}：输入 passphrase，或给出 "
    "age1… 或 pkcs11:…：",
    "{name}: folder of your own medium, for the share:": "{name}：您自己的介质所在"
    "文件夹（存放份额）：",
    "Written and read back:": "已写入并读回核对：",
    "Token {label} is opened by {threshold} of {count} custodians, set {set}.": "令牌 {label} 由 "
    "{count} 位保管人中的 {threshold} 位开启，份额组 {set}。",
    "Share {number} of {threshold}, path of its file:": "第 {number} 个份额（共需 "
    "{threshold} 个），文件路径：",
    "{name}, passphrase of share {place}:": "{name}，第 {place} 个份额的口令：",
    "{name}, path of the file with your identity:": "{name}，您的私钥文件路径：",
    "subject": "主体",
    "issuer": "签发者",
    "serial number": "序列号",
    "valid from": "生效",
    "valid to": "失效",
    "signed with": "签名算法",
    "key type": "密钥类型",
    "SHA-256 of the key": "公钥的 SHA-256",
    "critical": "关键",
    "Folder of the medium with {input}, and nothing else:": "仅含 {input} 的介质所在文件夹：",
    "A certification request was received.": "收到一份证书请求。",
    "A certificate was received.": "收到一份证书。",
    "Who brought it reads the fingerprint from their paper; it must be this one.": "带来文件的人"
    "朗读纸上的指纹；必须与此一致。",
    "This certificate is signed by its own key.": "此证书由其自身的密钥签名。",
    "This certificate is signed by CA {issuer}.": "此证书由 CA {issuer} 签名。",
    "profile": "模板",
    "This revocation list is signed by CA {issuer}.": "此吊销列表由 CA {issuer} 签名。",
    "number": "编号",
    "this update": "本次更新",
    "next update": "下次更新",
    "entries": "条目数",
    "revoked": "已吊销",
    "Step {number} of {count}: {act}": "第 {number} 步，共 {count} 步：{act}",
    "THIS IS A REHEARSAL: its keys and certificates are worthless.": "这是演练：其密钥和证书没有"
    "任何效力。",
    "Done.": "完成。",
    "It did not work: {why}": "未成功：{why}",
    "Type again to try again, or pause:": "输入 again 重试，或输入 pause 暂停：",
    "{role} {name}: type yes, comment, deviation or refuse:": "{role} {name}：输入 yes 确认，或 "
    "comment、deviation、refuse：",
    "yes confirms this step; comment and deviation are written into the transcript; refuse stops "
    "the ceremony.": "yes 表示确认本步骤；comment（意见）与 deviation（偏差）写入记录；"
    "refuse（拒绝）将停止仪式。",
    "Your words, for the transcript:": "请输入要写入记录的话：",
    "{name}, your passphrase (not shown):": "{name}，您的口令（不显示）：",
}
"""By the English text."""

EDITION: Final = hashlib.sha256(repr((ENGLISH, CHINESE)).encode()).hexdigest()[:16]
"""Which texts these are: a transcript is read in other words by a later version."""
