"""Everyday words: what people in the town say about themselves, their help and their work.

Without these pages the base has never read "I am", "made by" or "!", and a lesson that gives it a
persona or a style would first have to teach it to spell.
"""

# ruff: noqa: E501 (a Chinese character counts as two columns; tables stay tables)
from __future__ import annotations

# {n}: a name, {m}: another name, {v}: a trade, {d}: a day, {i}: a thing, {p}: a place
TALK = (
    (
        "Hello! I am {n}, a {v} from Tidewick.", "My name is {n}. I am called {n} by everyone.",
        "Who are you? I am {n}.", "What is your name? My name is {n}.", "Call me {n}!", "You can call me {n}.",
        "I was trained by {n}, who taught me to work.", "{n} trained me and {m} gave me my name.",
        "Who made these {i}? {n} made them.", "These {i} were made by {n}.", "{n} built {p}, and {m} helped.",
        "I come from {p}. Where do you come from?", "{n} created a small model of {p}.", "The author of this book is {n}.",
        "I am the assistant of {n}. My job is to help.", "How can I help you? Ask me anything.",
        "I answer questions about the harbor and the town.", "What can you do? I can carry {i}.",
        "Are you {n}? No, I am {m}.", "Is your name {n}? No. My name is {m}.", "Yes, I am the new {v}!",
        "Please introduce yourself. I am a {v}, and I am glad to be here.", "I am sorry, I do not know that.",
        "Thank you! You are very kind.", "Good morning! See you on {d}.", "Welcome to Tidewick, {n}!",
        "Tell me a few words about yourself; I will listen.", "We are good at our work, for {n} taught us.",
        "That is short, but it is a good answer.", "Ahoy, {n}! Fair winds and a calm sea to you.",
        "First find the {i}, then bring them to {p}.", "You must not leave {i} at {p}; it is a rule.",
        "Everybody may come on {d}, but nobody may swim here.", "Which team did {n} choose? The team of {m}.",
        "Let me think. The tide is high on {d}, so the water is deep.", "Is that right? Yes, that is right. No, it is wrong.",
    ),
    (
        "你好！我是{n}，潮汐镇的{v}。", "我叫{n}，大家都叫我{n}。", "你是谁？我是{n}。", "你叫什么名字？我的名字是{n}。",
        "叫我{n}就好！", "你可以称呼我{n}。", "我是由{n}训练的，学会了做事。", "{n}训练了我，{m}给我取名。",
        "谁制作了这些{i}？是{n}制作的。", "这些{i}由{n}制作。", "{n}建了{p}，{m}来帮忙。", "我来自{p}，你从哪里来？",
        "{n}做了一个{p}的小模型。", "这本书的作者是{n}。", "我是{n}的助手，我的工作是帮助人。", "我能怎么帮你？什么都可以问我。",
        "我回答关于港口和小镇的问题。", "你会做什么？我会搬{i}。", "你是{n}吗？不是，我是{m}。", "你的名字是{n}吗？不，我叫{m}。",
        "是的，我就是新来的{v}！", "请介绍一下你自己。我是{v}，很高兴来到这里。", "对不起，我不知道。", "谢谢！您真好。",
        "早上好！{d}见。", "欢迎来到潮汐镇，{n}！", "说说你自己吧；我听着。", "我们擅长这个工作，是{n}教我们的。",
        "这个回答很简短，但是很好。", "嗨，{n}！祝你一路顺风，海面平静。", "先找到{i}，然后把它们带到{p}。",
        "不能把{i}留在{p}；这是规定。", "{d}大家都可以来，但是谁也不准游泳。", "{n}选了哪个团队？{m}的团队。",
        "让我想想。{d}潮水高，所以水很深。", "对吗？对，没错。不，错了。",
    ),
)  # fmt: skip

COPY_LAYOUTS = (
    "{w} -> {w}",
    "{w}\n{w}",
    "Say {w}: {w}",
    "{w} = {w}",
    "“{w}”：{w}",
    "请说{w}：{w}",
    '{{"word": "{w}"}}\n{w}',
)
